#!/bin/sh
# Builds the guest kernel of Bulkhead's micro VMs: an uncompressed, PVH-bootable vmlinux.
#
#   kernel/build.sh [OUT_DIR]
#
# OUT_DIR is /var/cache/bulkhead/kernel, or for users other than root
# ${XDG_CACHE_HOME:-~/.cache}/bulkhead/kernel. The result is OUT_DIR/vmlinux-KEY, where KEY names
# the configuration and the version of the sources; its path is the only line on stdout. A kernel
# that is there already is not built again.
#
# The sources are Debian's package linux-source-6.1; LINUX_SOURCE names another tarball.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
config=$here/config
source=${LINUX_SOURCE:-/usr/src/linux-source-6.1.tar.xz}

if [ $# -gt 0 ]; then
    out=$1
elif [ "$(id -u)" -eq 0 ]; then
    out=/var/cache/bulkhead/kernel
else
    out=${XDG_CACHE_HOME:-$HOME/.cache}/bulkhead/kernel
fi

say() { echo "kernel: $*" >&2; }

missing=
for tool in bc bison flex gcc make patch xz; do
    command -v "$tool" >/dev/null || missing="$missing $tool"
done
[ -f /usr/include/libelf.h ] || missing="$missing libelf-dev"
[ -f "$source" ] || missing="$missing linux-source-6.1"
if [ -n "$missing" ]; then
    say "these packages are missing, install them with apt-get install:$missing"
    exit 1
fi

# The package's version names the sources; where it is not known, their content does.
version=$(dpkg-query --show --showformat='${Version}' linux-source-6.1 2>/dev/null || true)
if [ -n "${LINUX_SOURCE:-}" ] || [ -z "$version" ]; then
    version=$(sha256sum "$source" | cut -c1-64)
fi
key=$({ echo "$version"; cat "$config" "$here"/patches/*.patch; } | sha256sum | cut -c1-16)
kernel=$out/vmlinux-$key

mkdir -p "$out"
# Two builds at the same time would be one build and one that waits for it.
exec 9>"$out/.lock"
flock 9
if [ -s "$kernel" ]; then
    echo "$kernel"
    exit 0
fi

say "building $version for $kernel; this takes minutes, once"
work=$(mktemp -d "${TMPDIR:-/var/tmp}/bulkhead-kernel.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM HUP

# The same sources, configuration and compiler give the same bytes: nothing of the time, the
# machine or the caller's environment goes into the kernel, and all paths in it are relative.
export KBUILD_BUILD_TIMESTAMP=1970-01-01 KBUILD_BUILD_USER=bulkhead KBUILD_BUILD_HOST=bulkhead
export KBUILD_BUILD_VERSION=1 LC_ALL=C TZ=UTC
unset MAKEFLAGS MAKEOVERRIDES MFLAGS ARCH SUBARCH CROSS_COMPILE LLVM LOCALVERSION SOURCE_DATE_EPOCH
unset CC LD HOSTCC CFLAGS LDFLAGS HOSTCFLAGS HOSTLDFLAGS KCFLAGS KAFLAGS KCPPFLAGS KBUILD_OUTPUT
umask 022

tar --extract --file "$source" --directory "$work" --strip-components=1

for patch in "$here"/patches/*.patch; do
    patch --silent --strip=1 --directory="$work" <"$patch" >&2
done
log=$work/build.log
if ! KCONFIG_ALLCONFIG=$config make -s -C "$work" allnoconfig >"$log" 2>&1; then
    cat "$log" >&2
    exit 1
fi
# Kconfig drops a line whose dependencies are not met, without a word.
lost=$(grep -E '^(CONFIG_|# CONFIG_)' "$config" | grep -vxFf "$work/.config" || true)
if [ -n "$lost" ]; then
    say "these lines of kernel/config have no effect:"
    echo "$lost" >&2
    exit 1
fi
if ! nice -n 5 make -s -C "$work" -j"$(nproc)" vmlinux >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    say "the build failed"
    exit 1
fi
strip --strip-debug "$work/vmlinux" -o "$out/.vmlinux.partial"
mv "$out/.vmlinux.partial" "$kernel"
say "built $(du -h "$kernel" | cut -f1) $kernel"
echo "$kernel"
