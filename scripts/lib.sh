# shellcheck shell=bash disable=SC2034
# Sourced by the scripts beside it: where things are, and how to become root.

REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TARGET_DIR=${CARGO_TARGET_DIR:-$REPOSITORY/target}
BULKHEAD=${BULKHEAD:-$TARGET_DIR/x86_64-unknown-linux-musl/release/bulkhead}
SHOP=$REPOSITORY/examples/shop
CACHE=${BULKHEAD_CACHE:-/var/cache/bulkhead}

# Runs a command as root, with the variables that Bulkhead and the scripts read.
as_root() {
    if [[ $(id -u) == 0 ]]; then
        "$@"
    else
        sudo --preserve-env=BULKHEAD,BULKHEAD_CACHE,BULKHEAD_GATEWAY,DEBIAN_FRONTEND "$@"
    fi
}

say() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }
[[ -t 2 && -z ${NO_COLOR:-} ]] || say() { printf '\n%s\n' "$*" >&2; }

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}
