#!/bin/bash
# Runs the fuzz targets of fuzz/, one after another, and fails if one finds something: what it
# found is then in fuzz/artifacts/TARGET.
#
#   fuzz.sh              all of them
#   fuzz.sh TARGET…      these
#
# FUZZ_SECONDS is how long each runs, 60 unless set. What is learnt on the way stays in
# fuzz/corpus, so that later runs begin with it; seeds that everybody begins with are in fuzz/seeds.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
cd "$REPOSITORY"

"$REPOSITORY/scripts/setup.sh" build fuzz
(($#)) || set -- configuration seccomp user

# Coverage for the fuzzer is an unstable option of the stable compiler.
export RUSTC_BOOTSTRAP=1
status=0
for target; do
    say "Fuzzing $target"
    mkdir -p "fuzz/corpus/$target"
    # The targets have no unsafe code to watch, and run faster without a sanitizer. The fuzzer needs
    # the C library of the host, where tests and releases have a static one.
    cargo fuzz run --fuzz-dir fuzz --sanitizer none --target x86_64-unknown-linux-gnu "$target" \
        "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
        -max_total_time="${FUZZ_SECONDS:-60}" -timeout=10 -max_len=4096 \
        -dict="fuzz/dictionaries/$target" -print_final_stats=1 || status=$?
done
exit "$status"
