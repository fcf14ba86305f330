#!/bin/bash
# Installs what is missing of the named groups: build, run, kernel, test, fuzz, bench.
# Silent and without effect when nothing is missing; needs Debian 12 and, for packages, root or sudo.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

# A package, or command:package where the command may also come from elsewhere.
declare -A GROUPS_OF_PACKAGES=(
    [build]="cc:gcc libc6-dev musl-gcc:musl-tools make:make ca-certificates"
    [run]="qemu-system-x86_64:qemu-system-x86 nft:nftables ip:iproute2 mkfs.erofs:erofs-utils
           mkfs.ext4:e2fsprogs mmdebstrap:mmdebstrap curl:curl"
    [kernel]="linux-source-6.1 gcc:gcc libc6-dev make:make bc:bc bison:bison flex:flex libelf-dev libssl-dev
              xz:xz-utils patch:patch perl:perl"
    [test]="newuidmap:uidmap busybox-static docker:docker.io dockerd:docker.io containerd:containerd podman:podman criu:criu jq:jq strace:strace"
    [fuzz]="c++:g++"
    [bench]="dockerd:docker.io wrk:wrk python3:python3 runc:runc crun:crun busybox-static"
)

main() {
    local group entry missing=()
    for group; do
        for entry in ${GROUPS_OF_PACKAGES[$group]:?"unknown group $group"}; do
            present "$entry" || missing+=("${entry#*:}")
        done
    done
    if ((${#missing[@]})); then
        mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
        install_packages "${missing[@]}"
    fi
    for group; do
        case $group in
        build) rust_target x86_64-unknown-linux-musl ;;
        test) nextest ;;
        fuzz) rust_target x86_64-unknown-linux-gnu && cargo_fuzz ;;
        esac
    done
}

present() {
    if [[ $1 == *:* ]]; then
        # Commands of the system's administrator are not in every user's path.
        PATH=$PATH:/usr/sbin:/sbin command -v "${1%%:*}" >/dev/null
    else
        [[ $(dpkg-query --show --showformat '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
    fi
}

install_packages() {
    command -v apt-get >/dev/null || fail "these packages are missing, and there is no apt-get to install them: $*"
    say "Installing Debian packages$([[ $(id -u) == 0 ]] || echo ' with sudo'): $*"
    export DEBIAN_FRONTEND=noninteractive
    if lists_are_old; then
        as_root apt-get -q update >&2
    fi
    # A list may name a version that the mirror no longer has.
    install_now "$@" || { as_root apt-get -q update >&2 && install_now "$@"; } ||
        fail "apt-get could not install: $*"
}

install_now() { as_root apt-get -q install -y --no-install-recommends "$@" >&2; }

# Whether the package lists are missing, or a week old.
lists_are_old() {
    [[ -z $(find /var/lib/apt/lists -maxdepth 1 -type f -name '*Packages*' -mtime -7 -print -quit 2>/dev/null) ]]
}

# A target, whatever toolchain is in use.
rust_target() {
    local target=$1
    command -v cargo >/dev/null || fail "cargo is missing; install Rust from https://rustup.rs and run this again"
    cd "$REPOSITORY"
    [[ ! -d $(rustc --print target-libdir --target "$target" 2>/dev/null) ]] || return 0
    say "Adding the Rust target $target"
    rustup target add "$target" >&2 || fail "cannot add the Rust target $target; 'rustup target add $target' must work"
}

nextest() {
    ! cargo nextest --version >/dev/null 2>&1 || return 0
    say "Installing cargo-nextest, the test runner (takes some minutes)"
    # For the host itself: the repository's configuration names the static target.
    (cd / && cargo install --quiet --locked cargo-nextest) >&2
}

cargo_fuzz() {
    ! cargo fuzz --version >/dev/null 2>&1 || return 0
    say "Installing cargo-fuzz (takes some minutes)"
    (cd / && cargo install --quiet --locked cargo-fuzz) >&2
}

main "$@"
