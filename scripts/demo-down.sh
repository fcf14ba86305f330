#!/bin/bash
# Removes the demo: the shop with its volume, the daemon, and their files; then checks that nothing
# is left. Other projects are not touched: while there are any, the daemon stays.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

[[ -x $BULKHEAD ]] || fail "$BULKHEAD is missing; make it with 'make build'"
cd "$SHOP"
as_root "$BULKHEAD" down -v

# Whether anything besides the shop still lives in Bulkhead's state.
others() {
    as_root find /var/lib/bulkhead/sandboxes /var/lib/bulkhead/volumes -mindepth 1 -maxdepth 1 -print -quit 2>/dev/null
}
left=$(others || true)
if [[ -n $left ]]; then
    say "The shop is gone; the daemon stays for what else there is ($left)"
    exit 0
fi
as_root "$BULKHEAD" daemon stop
as_root rm -rf /run/bulkhead /var/lib/bulkhead
as_root "$REPOSITORY/scripts/check-clean.sh"
