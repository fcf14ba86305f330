"""Writes the figures down: tables for people, with the targets and what they were compared with."""

import datetime
import os
import platform
import re
import shutil
import subprocess

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
            "## The OCI runtime: `bulkhead oci` beside runc and crun",
            "",
            *report_oci.text(figures["oci"], arguments.oci_rounds),
            "",
        ]
    )


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
    lines += report_oci.targets(figures["oci"])
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
