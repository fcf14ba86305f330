#!/bin/bash
# Builds the guest kernel into the cache, unless it is there.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
as_root "$REPOSITORY/kernel/build.sh" "$CACHE/kernel"
