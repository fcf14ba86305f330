"""Writes the figures down: tables for people, with the targets and what they were compared with."""

import datetime
import os
import platform
import re
import shutil
import subprocess

import microvms
import report_oci
from tables import cell, ratio, times, verdict
from timing import median, shown


def text(figures, binary, arguments):
    return "\n".join(
        [
            "# What Bulkhead costs",
            "",
            "Written by `make bench`; do not edit. Medians; contestants took turns in one run, because the",
            "machines are shared and noisy: ratios say more than times.",
            "",
            *machine(binary),
            "",
            "## Targets",
            "",
            *targets(figures),
            "",
            f"## One program in a fresh sandbox: `run --rm IMAGE true` ({arguments.rounds} rounds)",
            "",
            *times(figures["run"], "docker run"),
            "",
            f"## One more program in a running sandbox: `exec … true` ({arguments.rounds} rounds)",
            "",
            *times(figures["exec"], "docker exec"),
            "",
            f"## The shop: `up -d --wait`, images built, volume kept ({arguments.ups} rounds)",
            "",
            *times(figures["up"], None),
            "",
            f"## Listing the running shop ({arguments.rounds} rounds)",
            "",
            *times(figures["ps"], None),
            "",
            "## Memory while the shop runs (mixed)",
            "",
            "Proportional set size of one process, the median where there are several.",
            "",
            "| process | number | each |",
            "|---|---|---|",
            *(
                f"| {role} | {count} | {size / 2**20:.1f} MiB |"
                for role, (count, size) in figures["memory"].items()
            ),
            "",
            "## The gateway: `GET /api/catalog`",
            "",
            *gateway(figures["gateway"]),
            "",
            f"## The start of a static web server ({arguments.rounds} rounds)",
            "",
            *steps(figures["micro VMs"]),
            "",
            "## The OCI runtime: `bulkhead oci` beside runc and crun",
            "",
            *report_oci.text(figures["oci"], arguments.oci_rounds),
            "",
        ]
    )


def steps(figures):
    """Medians since the start was asked for; those of the agent since its monitor was."""
    if isinstance(figures, str):
        return [f"Not measured: {cell(figures)}"]
    names = (microvms.ANSWERED, microvms.READY, microvms.RUNS, microvms.SERVED)
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for contestant, measured in figures.items():
        values = [median(measured.get(name)) for name in names]
        lines.append(f"| {contestant} | " + " | ".join("" if v is None else shown(v) for v in values) + " |")
    return lines


def microvm_targets(figures):
    if isinstance(figures, str):
        return ["| the start of a micro VM | | not measured | |"]

    def value(contestant, step):
        return median(figures[contestant].get(step))

    boots, goes_on, floor = microvms.BOOTS, microvms.GOES_ON, microvms.FLOOR
    ready, served = microvms.READY, microvms.SERVED
    above = value(boots, ready) - value(floor, ready)
    return [
        verdict("agent ready, a micro VM that boots", "at most 1.00 s", value(boots, ready), 1.0, shown),
        verdict("the same, above plain QEMU", "at most 250 ms", above, 0.25, shown),
        verdict("agent ready, from a template", "at most 200 ms", value(goes_on, ready), 0.2, shown),
        verdict("first HTTP 200 of a micro VM that boots", "at most 1.30 s", value(boots, served), 1.3, shown),
        verdict("first HTTP 200 of one from a template", "at most 1.30 s", value(goes_on, served), 1.3, shown),
    ]


def machine(binary):
    """The facts without which a figure means nothing."""
    memory_kib = int(found("/proc/meminfo", r"MemTotal:\s+(\d+)") or 0)
    facts = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": found("/proc/cpuinfo", r"model name\s*: (.+)"),
        "cores": str(os.cpu_count()),
        "memory": f"{memory_kib / 2**20:.0f} GiB",
        "kernel": platform.release(),
        "system": found("/etc/os-release", r'PRETTY_NAME="(.+)"'),
        "bulkhead": version([binary, "--version"]),
        "runc": version(["runc", "--version"]),
        "crun": version(["crun", "--version"]),
        "docker": version(["dockerd", "--version"]),
        "podman": version(["podman", "--version"]),
        "QEMU": version(["qemu-system-x86_64", "--version"]),
        "nginx": version(["nginx", "-v"]),
        "haproxy": version(["haproxy", "-v"]),
    }
    return ["| | |", "|---|---|", *(f"| {name} | {fact} |" for name, fact in facts.items())]


def found(path, pattern):
    with open(path, encoding="utf-8") as file:
        match = re.search(pattern, file.read())
    return match[1] if match else ""


def version(command):
    if not shutil.which(command[0]):
        return "not installed, not measured"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0].strip() if lines else "?"


def targets(figures):
    lines = ["| what | target | measured | |", "|---|---|---|---|"]
    container = median(figures["run"].get("bulkhead run, container"))
    docker = median(figures["run"].get("docker run"))
    if container and docker:
        lines.append(verdict("`run --rm IMAGE true` against Docker's", "at most 1/5", container / docker, 0.2, ratio))
    else:
        lines.append("| `run --rm IMAGE true` against Docker's | at most 1/5 | not measured | |")
    guest = median(figures["run"].get("bulkhead run, micro VM"))
    if guest and docker:
        lines.append(verdict("`run --rm --runtime microvm IMAGE true` against Docker's container", "at most 1", guest / docker, 1, ratio))
    lines += report_oci.targets(figures["oci"])
    lines += microvm_targets(figures["micro VMs"])
    for what, section, name, limit in (
        ("`run --rm --runtime microvm IMAGE true`", "run", "bulkhead run, micro VM", 1.5),
        ("`up` of the shop, mixed", "up", "mixed", 8.0),
        ("`up` of the shop, all containers", "up", "all containers", 4.0),
        ("`ps` of the running shop", "ps", "bulkhead ps", 0.030),
    ):
        value = median(figures[section].get(name))
        lines.append(verdict(what, f"at most {shown(limit)}", value, limit, shown))
    return lines


def gateway(results):
    if isinstance(results, str):
        return [f"Not measured: {results}."]
    lines = ["| | connections | median | 99 % | requests a second | failed |", "|---|---|---|---|---|---|"]
    for (name, connections), figures in results.items():
        if figures is None:
            lines.append(f"| {name} | {connections} | not measured: not installed | | | |")
            continue
        middle, late, rate, failed = figures
        lines.append(f"| {name} | {connections} | {shown(middle)} | {shown(late)} | {rate:.0f} | {failed} |")
    return lines
