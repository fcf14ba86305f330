#!/bin/bash
# Exit code 0 if this host shows nothing of Bulkhead's but its caches; otherwise lists what is left.
# Instances with a --root of their own are not looked at.
# Needs root to see everything.
set -euo pipefail

left=()
# What tells this instance's devices and tables from another's.
digits=$(printf %s /var/lib/bulkhead | sha256sum | cut -c1-5)
found() { left+=("$1: $2"); }

interfaces() {
    local path
    for path in "/sys/class/net/bh-$digits"*; do
        [[ ! -e $path ]] || found "network interface" "${path##*/}"
    done
    # A sandbox's device that is in no bridge belongs to nobody any more.
    for path in /sys/class/net/bhe*; do
        [[ ! -e $path || -e $path/master ]] || found "network interface" "${path##*/}"
    done
}

tables() {
    local table
    command -v nft >/dev/null || return 0
    while read -r table; do
        found "nftables table" "$table"
    done < <(nft list tables 2>/dev/null | grep -E "^table [a-z0-9]+ bulkhead_$digits" || true)
}

mounts() {
    local target
    while read -r target; do
        found mount "$target"
    done < <(awk '$5 ~ "^/(run|var/lib|var/cache)/bulkhead" { print $5 }' /proc/self/mountinfo)
}

cgroups() {
    local path
    while read -r path; do
        found cgroup "$path"
    done < <(find /sys/fs/cgroup -mindepth 1 -maxdepth 4 -type d -name bulkhead 2>/dev/null)
}

processes() {
    local directory arguments program
    for directory in /proc/[0-9]*; do
        program=$(readlink "$directory/exe" 2>/dev/null) || continue
        program=${program% (deleted)}
        arguments=$(tr '\0' ' ' <"$directory/cmdline" 2>/dev/null) || continue
        # Supervisors, data plane and monitors are known by the paths that they were given.
        if [[ ${program##*/} == bulkhead && " $arguments" == *" daemon "* && $arguments != *" --root"* ||
            $arguments == *" /run/bulkhead/"* || $arguments == *=/run/bulkhead/* ]]; then
            found process "${directory##*/}: ${arguments:0:120}"
        fi
    done
}

files() {
    local path
    for path in /run/bulkhead /var/lib/bulkhead; do
        [[ ! -e $path ]] || found files "$path"
    done
}

interfaces
tables
mounts
cgroups
processes
files

if ((${#left[@]})); then
    printf 'left behind by Bulkhead:\n' >&2
    printf '  %s\n' "${left[@]}" >&2
    exit 1
fi
printf 'nothing of Bulkhead is left but its caches\n' >&2
