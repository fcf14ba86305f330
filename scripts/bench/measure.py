#!/usr/bin/env python3
"""Measures what Bulkhead costs, beside Docker and others, and writes docs/benchmarks.md.

Everything runs in one go on one host, contestants in turn, so that ratios mean something on a
machine that is shared and noisy. What cannot be measured is named with the reason.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import microvms
import peers
import report
from timing import Failed, interleaved, run, seconds

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SHOP = REPOSITORY / "examples/shop"
IMAGE = "debian:bookworm-slim"
VARIANTS = {
    "mixed": ["compose.yaml"],
    "all containers": ["compose.yaml", "compose.containers.yaml"],
    "all micro VMs": ["compose.yaml", "compose.microvms.yaml"],
}


class Bulkhead:
    """An instance of Bulkhead of its own, below a temporary directory."""

    def __init__(self, binary, root):
        self.gateway = peers.free_address()
        self.root = root
        os.environ["BULKHEAD_GATEWAY"] = self.gateway
        # Supervisors write down when a guest has come how far.
        os.environ["BULKHEAD_LOG"] = "bulkhead_microvm=debug"
        self.command = [binary, "--root", root]

    def compose(self, files, *arguments):
        return [*self.command, *(word for file in files for word in ("-f", file)), *arguments]

    def import_base(self):
        script = [str(SHOP / "base/bootstrap.sh"), "--import"]
        run(script, env={**os.environ, "BULKHEAD": " ".join(self.command)})

    def base_tar(self):
        tars = (pathlib.Path(os.environ["BULKHEAD_CACHE"]) / "bootstrap").glob("*.tar")
        return str(max(tars, key=os.path.getmtime))

    def api(self, path):
        socket = f"{self.root}/run/bulkhead.sock"
        answer = run(["curl", "-sSf", "--unix-socket", socket, f"http://localhost{path}"])
        return json.loads(answer)

    def end(self):
        for arguments in (["down", "-v"], ["daemon", "stop", "--force"]):
            with contextlib.suppress(Failed):
                run([*self.command, *arguments], cwd=SHOP)


def starts(bulkhead, docker, podman, rounds):
    """`run --rm IMAGE true`, of everything that can run it."""
    true = ["--rm", IMAGE, "true"]
    contestants = {
        "bulkhead run, container": [*bulkhead.command, "run", *true],
        "bulkhead run, container, no network": [*bulkhead.command, "run", "--network", "none", *true],
        "bulkhead run, micro VM": [*bulkhead.command, "run", "--runtime", "microvm", *true],
    }
    if docker:
        contestants["docker run"] = [*docker, "run", *true]
        contestants["docker run, no network"] = [*docker, "run", "--network", "none", *true]
    if podman:
        contestants["podman run"] = [*podman, "run", *true]
    return race(contestants, rounds)


def execs(bulkhead, docker, rounds):
    """`exec … true` in something that runs already."""
    contestants = {}
    with contextlib.ExitStack() as stack:
        for name, command, options in (
            ("bulkhead exec, container", bulkhead.command, []),
            ("bulkhead exec, micro VM", bulkhead.command, ["--runtime", "microvm"]),
            ("docker exec", docker, []),
        ):
            if not command:
                continue
            sandbox = "bench-" + re.sub(r"\W+", "-", name)
            try:
                run([*command, "run", "-d", "--name", sandbox, *options, IMAGE, "sleep", "3600"])
            except Failed as error:
                contestants[name] = failing(error)
                continue
            stack.callback(subprocess.run, [*command, "rm", "-f", sandbox], capture_output=True, check=False)
            contestants[name] = timed([*command, "exec", sandbox, "true"])
        return interleaved(contestants, rounds)


def race(commands, rounds):
    return interleaved({name: timed(command) for name, command in commands.items()}, rounds)


def timed(command, **options):
    return lambda: seconds(command, **options)


def failing(error):
    def fail():
        raise error

    return fail


def ups(bulkhead, rounds):
    """`up -d --wait` of the shop, images built, the database's volume kept."""
    times = {}
    for name, files in VARIANTS.items():
        def once(files=files):
            elapsed = seconds(bulkhead.compose(files, "up", "-d", "--wait"), cwd=SHOP)
            run(bulkhead.compose(files, "down"), cwd=SHOP)
            return elapsed

        try:
            run(bulkhead.compose(files, "build"), cwd=SHOP)
        except Failed as error:
            times[name] = str(error)
            continue
        times |= interleaved({name: once}, rounds)
        # Another kind may read the volume another way; each begins with a fresh one.
        run(bulkhead.compose(files, "down", "-v"), cwd=SHOP)
    return times


def memory(bulkhead, docker_directory):
    """What each process costs: role -> (processes, proportional set size of one in bytes)."""
    found = {}
    for directory in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (directory / "cmdline").read_bytes().decode(errors="replace").split("\0")
            # What is shared with others counts by its share.
            size = re.search(r"^Pss:\s+(\d+)", (directory / "smaps_rollup").read_text(), re.M)
        except OSError:
            continue
        role = role_of(words, bulkhead, docker_directory)
        if role and size:
            found.setdefault(role, []).append(int(size[1]) * 1024)
    return {role: (len(sizes), sorted(sizes)[len(sizes) // 2]) for role, sizes in sorted(found.items())}


def role_of(words, bulkhead, docker_directory):
    program = os.path.basename(words[0])
    if program == "bulkhead" or words[0].startswith("/proc/self/exe"):
        role = next((word for word in words if word in ("daemon", "dataplane", "supervisor")), None)
        return f"bulkhead {role}" if role and any(bulkhead.root in word for word in words) else None
    if program.startswith("qemu-system") and any(bulkhead.root in word for word in words):
        return "QEMU of one micro VM, its guest's memory included"
    if program in ("dockerd", "containerd", "containerd-shim-runc-v2") and any(
        docker_directory in word for word in words
    ):
        return program
    return None


def oci(binary, rounds):
    """`bulkhead oci` beside runc and crun, by a program with mounts of its own; or why not."""
    program = pathlib.Path(__file__).with_name("oci.py")
    try:
        return json.loads(run([sys.executable, str(program), "--bulkhead", binary, "--rounds", str(rounds)]))
    except Failed as error:
        return str(error)


def requests(bulkhead, directory, seconds_each):
    """Latency and throughput of the gateway and others, before the same service."""
    if not shutil.which("wrk"):
        return "wrk is not installed (apt-get install wrk)"
    project = bulkhead.api("/bulkhead/projects/shop")
    catalog = next(service for service in project["services"] if service["name"] == "catalog")
    upstream = f"{catalog['sandboxes'][0]['address']}:8000"
    results = {}
    with peers.nginx(f"{directory}/nginx", upstream) as nginx, peers.haproxy(
        f"{directory}/haproxy", upstream
    ) as haproxy:
        contestants = {"no proxy": upstream, "bulkhead's gateway": bulkhead.gateway, "nginx": nginx, "haproxy": haproxy}
        for connections in (1, 32):
            for name, address in contestants.items():
                if address is None:
                    results[name, connections] = None
                    continue
                output = run(
                    ["wrk", "-t1", f"-c{connections}", f"-d{seconds_each}s", "--latency", f"http://{address}/api/catalog"]
                )
                results[name, connections] = wrk_figures(output)
    return results


def wrk_figures(output):
    """(median seconds, 99th percentile seconds, requests a second, failed requests)"""
    units = {"us": 1e-6, "ms": 1e-3, "s": 1.0}

    def quantile(percent):
        number, unit = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s)$", output, re.M).groups()
        return float(number) * units[unit]

    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    return (
        quantile(50),
        quantile(99),
        float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1]),
        int(errors[1]) if errors else 0,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bulkhead", required=True, help="the binary")
    parser.add_argument("--rounds", type=int, default=20, help="runs of a short command (20)")
    parser.add_argument("--oci-rounds", type=int, default=40, help="runs of a command of an OCI runtime (40)")
    parser.add_argument("--ups", type=int, default=5, help="times that the shop is brought up (5)")
    parser.add_argument("--wrk-seconds", type=int, default=5, help="length of each load (5)")
    parser.add_argument("--output", default=str(REPOSITORY / "docs/benchmarks.md"))
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="bhb", dir="/var/tmp") as directory:
        bulkhead = Bulkhead(os.path.abspath(arguments.bulkhead), f"{directory}/b")
        os.mkdir(bulkhead.root)
        figures = {}
        print("oci", flush=True)
        figures["oci"] = oci(bulkhead.command[0], arguments.oci_rounds)
        try:
            bulkhead.import_base()
            tar = bulkhead.base_tar()
            with peers.docker(f"{directory}/docker", tar, IMAGE) as docker, peers.podman(
                f"{directory}/podman", tar, IMAGE
            ) as podman:
                print("run", flush=True)
                figures["run"] = starts(bulkhead, docker, podman, arguments.rounds)
                print("exec", flush=True)
                figures["exec"] = execs(bulkhead, docker, arguments.rounds)
                print("micro VMs", flush=True)
                figures["micro VMs"] = microvms.measure(bulkhead, directory, arguments.rounds)
                print("up", flush=True)
                figures["up"] = ups(bulkhead, arguments.ups)
                print("ps, memory, gateway", flush=True)
                files = VARIANTS["mixed"]
                run(bulkhead.compose(files, "up", "-d", "--wait"), cwd=SHOP)
                ps = {"bulkhead ps": timed(bulkhead.compose(files, "ps"), cwd=SHOP)}
                if docker:
                    run([*docker, "run", "-d", IMAGE, "sleep", "3600"])
                    ps["docker ps (one container)"] = timed([*docker, "ps"])
                figures["ps"] = interleaved(ps, arguments.rounds)
                figures["memory"] = memory(bulkhead, f"{directory}/docker")
                figures["gateway"] = requests(bulkhead, directory, arguments.wrk_seconds)
                if docker:
                    run([*docker, "kill", *run([*docker, "ps", "-q"]).split()])
        finally:
            bulkhead.end()
        text = report.text(figures, bulkhead.command[0], arguments)
        pathlib.Path(arguments.output).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
