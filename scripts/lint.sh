#!/bin/bash
# Format, lints and dependency rules; what is not installed is said, not passed over.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
cd "$REPOSITORY"

"$REPOSITORY/scripts/setup.sh" build
cargo fmt --all --check
cargo fmt --manifest-path fuzz/Cargo.toml --check
cargo clippy --locked --workspace --all-targets -- -D warnings
if cargo deny --version >/dev/null 2>&1; then
    cargo deny --locked check
else
    echo "skipped: cargo-deny is not installed (cargo install --locked cargo-deny)" >&2
fi
if command -v shellcheck >/dev/null; then
    git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck --external-sources --source-path=SCRIPTDIR
else
    echo "skipped: shellcheck is not installed (apt-get install shellcheck)" >&2
fi
