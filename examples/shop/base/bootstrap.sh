#!/bin/bash
# Makes the base image debian:bookworm-slim from Debian's packages and brings it into Bulkhead.
#
#   bootstrap.sh TAR        makes the tar file TAR (nothing to do if it is there and fresh)
#   bootstrap.sh --import   makes it in the cache and runs `bulkhead import TAR debian:bookworm-slim`
#
# It takes the place of a pull where no container registry can be reached. What this host uses to
# reach Debian's packages (mirrors, proxies, certificates of its own) goes into the image, so that
# `apt-get install` works in a build as it does here.
#
# BULKHEAD        the command to run instead of `bulkhead`, with its options
# BULKHEAD_CACHE  the cache directory (default: /var/cache/bulkhead)
set -euo pipefail

SUITE=bookworm
IMAGE=debian:bookworm-slim
# Part of the cache key: raise it when what this script makes changes.
RECIPE=1
CACHE=${BULKHEAD_CACHE:-/var/cache/bulkhead}/bootstrap
read -ra BULKHEAD <<<"${BULKHEAD:-bulkhead}"

main() {
    case ${1:-} in
    --import)
        # A month old at most: then Debian's updates are worth the half minute.
        local month key tar
        month=$(date +%Y%m)
        key=$(host_key)
        tar=$CACHE/$SUITE-$month-$key.tar
        # The same image again would have all that stands on it built again.
        if [[ -e $tar.imported ]] && "${BULKHEAD[@]}" inspect "$IMAGE" >/dev/null 2>&1; then
            return 0
        fi
        make_tar "$tar"
        "${BULKHEAD[@]}" import "$tar" "$IMAGE"
        touch "$tar.imported"
        ;;
    -* | '')
        sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
    *) make_tar "$1" ;;
    esac
}

# Names what of this host goes into the image.
host_key() {
    { echo "$RECIPE" && sources && host_files | xargs -0 --no-run-if-empty cat; } | sha256sum | cut -c1-12
}

make_tar() {
    local tar=$1 work
    [[ ! -s $tar ]] || return 0
    command -v mmdebstrap >/dev/null || {
        echo "bootstrap.sh: mmdebstrap is missing; install it with: apt-get install mmdebstrap" >&2
        exit 1
    }
    echo "making $IMAGE from Debian's packages (half a minute)" >&2
    mkdir -p "$(dirname "$tar")"
    work=$(mktemp -d)
    # shellcheck disable=SC2064 # the name of now
    trap "rm -rf '$work' '$tar.new'" EXIT
    mkdir "$work/host"
    host_files | xargs -0 --no-run-if-empty cp --parents -t "$work/host"
    sources >"$work/sources"
    slim_rules >"$work/slim"

    # shellcheck disable=SC2016 # mmdebstrap's shell expands $1, not this one
    # "apt" is what apt and the essential packages need: smaller than minbase, and all an image is
    # built upon.
    mmdebstrap --quiet --mode=root --variant=apt --format=tar --skip=output/dev \
        --dpkgopt="$work/slim" \
        --customize-hook="rm -f \"\$1/etc/apt/sources.list\" && cp '$work/sources' \"\$1/etc/apt/sources.list.d/host.list\"" \
        --customize-hook="cp -r '$work/host/.' \"\$1/\"" \
        --customize-hook='rm -f "$1/etc/resolv.conf" "$1/etc/hostname" "$1/etc/machine-id"' \
        --customize-hook='rm -rf "$1"/var/log/*.log "$1"/var/log/apt "$1"/var/cache/ldconfig' \
        "$SUITE" "$tar.new" - <"$work/sources" >&2
    mv "$tar.new" "$tar"
}

# The package sources of this suite that this host uses, in apt's one-line form. Only sources that
# Debian's own keys sign can be used in a bare image.
sources() {
    local found
    # shellcheck disable=SC2016 # apt's own form of variables
    found=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
        awk -v suite="$SUITE" '$2 ~ "^" suite "(-updates|-security)?$" && $3 == "main" { print "deb", $1, $2, $3 }' | sort -u)
    [[ -n $found ]] || {
        echo "bootstrap.sh: apt on this host knows no packages of Debian's $SUITE: add its sources and run 'apt-get update'" >&2
        return 1
    }
    printf '%s\n' "$found"
}

# Files of this host, each ended by NUL: proxies of apt, and certificates that the host's owner
# added to those of Debian.
host_files() {
    find /etc/apt/apt.conf.d -type f -print0 2>/dev/null |
        xargs -0 --no-run-if-empty grep -lZiE '^\s*Acquire::([a-z]+::)?(Proxy|Check-)' || true
    find /usr/local/share/ca-certificates -type f -name '*.crt' -print0 2>/dev/null
}

# What Debian's slim images leave out.
slim_rules() {
    printf 'path-exclude=/usr/share/%s/*\n' doc man locale info groff linda lintian
    echo 'path-include=/usr/share/doc/*/copyright'
    echo 'path-include=/usr/share/locale/locale.alias'
}

main "$@"
