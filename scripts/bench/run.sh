#!/bin/bash
# Measures Bulkhead beside Docker and others, in one run on this host, and writes docs/benchmarks.md.
# Arguments go to measure.py; see measure.py --help.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
cd "$REPOSITORY"

"$REPOSITORY/scripts/setup.sh" build run kernel bench
say "Building Bulkhead"
cargo build --release --locked -p bulkhead-cli
say "The guest kernel"
"$REPOSITORY/scripts/kernel.sh"
say "Measuring (some minutes)"
export BULKHEAD_CACHE=$TARGET_DIR/e2e-cache
mkdir -p "$BULKHEAD_CACHE"
[[ -e $BULKHEAD_CACHE/kernel ]] || ln -s "$CACHE/kernel" "$BULKHEAD_CACHE/kernel"
as_root python3 "$REPOSITORY/scripts/bench/measure.py" --bulkhead "$BULKHEAD" "$@"
