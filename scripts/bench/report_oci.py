"""What `oci.py` measured, as tables."""

from tables import cell, ratio, times, verdict
from timing import median, shown

OURS = "bulkhead oci"
CRUN = "crun without cgroups"


def text(figures, rounds):
    if isinstance(figures, str):
        return [f"Not measured: {cell(figures)}"]
    at_once = figures["at once"]
    lines = [
        "A bundle of `runc spec` with busybox, state directories in memory, contestants in turn.",
    ]
    if figures["without cgroup v2"]:
        lines.append("On this host cgroup v2 is mounted beside v1; all ran without that mount.")
    if figures["plain crun"]:
        lines.append(f"crun with cgroups does not run here: `{cell(figures['plain crun'])}`.")
    for title, key in (
        (f"`run` of `true` ({rounds} rounds)", "run"),
        (f"`exec` of `true` ({rounds} rounds)", "exec"),
        (f"`create`, `start`, `delete --force` ({rounds} rounds)", "life"),
        (f"{at_once} `run --detach` at once", "starts"),
    ):
        lines += ["", f"### {title}", "", *times(figures[key], "runc")]
    rates = [
        f"{name}: {at_once / median(values):.0f} a second" for name, values in figures["starts"].items() if median(values)
    ]
    lines += ["", f"Containers started, {at_once} at once: {', '.join(rates)}."]
    lines += ["", "### Peak memory of `create`, the largest of its processes", "", "| | |", "|---|---|"]
    for name, size in figures["memory"].items():
        lines.append(f"| {name} | {cell(size) if isinstance(size, str) else f'{size / 2**20:.1f} MiB'} |")
    work = median(figures["cgroup work"])
    if work:
        lines += [
            "",
            f"The cgroup work of one container (a group in each hierarchy, a device policy, a process moved,",
            f"all removed) takes the kernel {shown(work)} (median); crun without cgroups is spared it.",
        ]
    lines += ["", "### Where the time of a `run` goes", ""]
    lines += ["By `--log-level trace`: medians of the time since the line before of the same process; a", "process that is cloned begins with its parent's last.", ""]
    lines += ["| process | until | |", "|---|---|---|"]
    lines += [f"| {process} | {phase} | {shown(microseconds / 1e6)} |" for process, phase, microseconds in figures["phases"]]
    return lines


def targets(figures):
    """Rows of the table of targets."""
    if isinstance(figures, str):
        return ["| `bulkhead oci` against runc | | not measured | |"]

    def against(key, name, what, target, limit):
        ours, other = median(figures[key].get(OURS)), median(figures[key].get(name))
        value = ours / other if ours and other else None
        return verdict(what, target, value, limit, ratio)

    lines = [
        against("run", "runc", "`oci run` of `true` against runc's", "at most 0.30", 0.30),
        against("exec", "runc", "`oci exec` of `true` against runc's", "at most 0.35", 0.35),
        against("starts", "runc", f"{figures['at once']} concurrent `oci run --detach` against runc's", "at most 1/3", 1 / 3),
    ]
    ours, crun = median(figures["run"].get(OURS)), median(figures["run"].get(CRUN))
    if ours and crun:
        limit = crun + (median(figures["cgroup work"]) or 0)
        what = "`oci run` of `true` against crun without cgroups, and the cgroup work"
        lines.append(verdict(what, f"at most {shown(limit)}", ours, limit, shown))
    size = figures["memory"].get(OURS)
    value = size / 2**20 if isinstance(size, int) else None
    lines.append(verdict("peak memory of `oci create`", "at most 4 MiB", value, 4, lambda mib: f"{mib:.1f} MiB"))
    return lines
