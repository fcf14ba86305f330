#!/bin/bash
# Sets up what the tests need and runs them all: each crate's own, then the end-to-end ones against
# the release binary.
#
#   test.sh          everything
#   test.sh unit     only the crates' own
#   test.sh e2e      only the end-to-end ones; further arguments go to cargo nextest
set -euo pipefail
source "$(dirname "$0")/lib.sh"
cd "$REPOSITORY"

what=${1:-all}
(($# == 0)) || shift

"$REPOSITORY/scripts/setup.sh" build run kernel test
[[ $(id -u) == 0 ]] || export CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_RUNNER=$REPOSITORY/scripts/as-root.sh
say "The guest kernel"
"$REPOSITORY/scripts/kernel.sh"

# Runs tests, then says what this host could not run, with the reasons.
nextest() {
    local report=$REPOSITORY/target/nextest/default/junit.xml
    rm -f "$report"
    cargo nextest run --locked --no-fail-fast "$@" || status=$?
    [[ -e $report ]] || return 0
    printf 'skipped on this host: %s\n' "$(grep -c '^skipped: ' "$report" || true)"
    sed -n 's/^skipped: /  /p' "$report" | sort | uniq -c
}

status=0
if [[ $what == all || $what == unit ]]; then
    say "The crates' tests"
    nextest --workspace --exclude bulkhead-e2e "$@"
fi
if [[ $what == all || $what == e2e ]]; then
    say "The binary"
    cargo build --release --locked -p bulkhead-cli
    # Images are kept apart from those of the user, and across runs.
    export BULKHEAD_BIN=$BULKHEAD BULKHEAD_CACHE=$TARGET_DIR/e2e-cache
    mkdir -p "$BULKHEAD_CACHE"
    [[ -e $BULKHEAD_CACHE/kernel ]] || ln -s "$CACHE/kernel" "$BULKHEAD_CACHE/kernel"
    say "The end-to-end tests"
    nextest -p bulkhead-e2e "$@"
fi
exit "$status"
