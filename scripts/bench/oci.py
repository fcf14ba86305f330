#!/usr/bin/env python3
"""Measures `bulkhead oci` beside runc and crun, and prints what it found as JSON.

All are given the same bundles and a state directory in memory, in a mount namespace of this
program's own. crun 1.8 refuses hosts on which cgroup v2 is mounted beside v1: there all of them
run without that mount, and without cgroups crun runs anyway, as it cannot have them.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from timing import Failed, interleaved, run

BUSYBOX = "/bin/busybox"
CGROUPS = pathlib.Path("/sys/fs/cgroup")
AT_ONCE = 200


class Contestant:
    """A runtime with its options, and a state directory of its own."""

    def __init__(self, name, command, directory):
        self.name = name
        self.state = directory / name.split()[0]
        self.command = [*command, "--root", str(self.state)]
        self.number = 0

    def new_id(self):
        self.number += 1
        return f"bench-{os.getpid()}-{self.name.split()[0]}-{self.number}"

    def verb(self, verb, *arguments):
        return [*self.command, verb, *arguments]

    def delete(self, container):
        wait_for(spawn(self.verb("delete", "--force", container)))


def spawn(command, cwd=None):
    """Starts a command with no input and no output. Much of a short run would be Python's own
    fork otherwise."""
    nothing = os.open(os.devnull, os.O_RDWR)
    before = os.getcwd()
    try:
        if cwd:
            os.chdir(cwd)
        actions = [(os.POSIX_SPAWN_DUP2, nothing, number) for number in range(3)]
        return os.posix_spawn(command[0], command, os.environ, file_actions=actions)
    finally:
        os.chdir(before)
        os.close(nothing)


def wait_for(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def seconds(*commands, cwd=None):
    """How long the commands take, one after another."""
    started = time.perf_counter()
    for command in commands:
        code = wait_for(spawn(command, cwd))
        if code:
            run(command, cwd=cwd)
            raise Failed(f"{' '.join(command)}: exit code {code} at first, then none")
    return time.perf_counter() - started


def bundle(directory, name, args):
    """A bundle as `runc spec` makes it, with a busybox in it."""
    path = directory / name
    binaries = path / "rootfs/bin"
    binaries.mkdir(parents=True)
    shutil.copy(BUSYBOX, binaries / "busybox")
    for program in ("true", "sleep"):
        (binaries / program).symlink_to("busybox")
    for mount_point in ("proc", "sys", "dev"):
        (path / "rootfs" / mount_point).mkdir()
    run([shutil.which("runc") or sys.exit("runc is not installed"), "spec"], cwd=path)
    configuration = json.loads((path / "config.json").read_text())
    configuration["process"] |= {"args": args, "terminal": False}
    (path / "config.json").write_text(json.dumps(configuration))
    return path


def runs(contestants, path, rounds):
    """`run` of `true`."""
    return race(contestants, rounds, lambda c: seconds(c.verb("run", c.new_id()), cwd=path))


def lives(contestants, path, rounds):
    """`create`, `start` and `delete`, each a command."""

    def once(contestant):
        container = contestant.new_id()
        return seconds(
            contestant.verb("create", container),
            contestant.verb("start", container),
            contestant.verb("delete", "--force", container),
            cwd=path,
        )

    return race(contestants, rounds, once)


def execs(contestants, path, rounds):
    """`exec` of `true`."""
    running = {}
    try:
        for contestant in contestants:
            container = contestant.new_id()
            with contextlib.suppress(Failed):
                seconds(contestant.verb("run", "--detach", container), cwd=path)
                running[contestant] = container
        return race(running, rounds, lambda c: seconds(c.verb("exec", running[c], "true")))
    finally:
        for contestant, container in running.items():
            contestant.delete(container)


def starts_at_once(contestants, path, rounds):
    """Many `run --detach` begun in one moment, until the last has ended."""

    def once(contestant):
        containers = [contestant.new_id() for _ in range(AT_ONCE)]
        try:
            started = time.perf_counter()
            pids = [spawn(contestant.verb("run", "--detach", c), cwd=path) for c in containers]
            failed = sum(1 for pid in pids if wait_for(pid))
            elapsed = time.perf_counter() - started
        finally:
            for container in containers:
                contestant.delete(container)
        if failed:
            raise Failed(f"{failed} of {AT_ONCE} starts failed")
        return elapsed

    return race(contestants, rounds, once)


def race(contestants, rounds, once):
    return interleaved({c.name: lambda c=c: once(c) for c in contestants}, rounds)


def memory(contestants, path, directory):
    """The largest resident set of any process of a `create`, in bytes: those that end with it by
    their parent's account, the container's by its own."""
    found = {}
    account, pid_file = directory / "account", directory / "pid"
    # busybox's `time` takes kibibytes for pages: what it says of a known size tells.
    known = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    real = int(run([BUSYBOX, "time", "-v", "-o", str(account), sys.executable, "-c", known]))
    factor = max(1, round(accounted(account) / real))
    for contestant in contestants:
        container = contestant.new_id()
        # A small parent: what it has in memory at the fork counts for the child.
        command = contestant.verb("create", "--pid-file", str(pid_file), container)
        try:
            seconds([BUSYBOX, "time", "-v", "-o", str(account), *command], cwd=path)
            status = pathlib.Path(f"/proc/{pid_file.read_text()}/status").read_text()
            waiting = re.search(r"^VmHWM:\s+(\d+)", status, re.M)
            found[contestant.name] = max(accounted(account) // factor, int(waiting[1])) * 1024
        except Failed as error:
            found[contestant.name] = str(error)
        finally:
            contestant.delete(container)
    return found


def accounted(path):
    return int(re.search(r"Maximum resident set size \(kbytes\): (\d+)", path.read_text())[1])


def cgroup_work(rounds):
    """What the kernel alone takes for a container's groups: to make one in each hierarchy, to set
    a device policy, to move a process into them, and to remove them."""
    hierarchies = [path for path in CGROUPS.iterdir() if (path / "tasks").exists()]
    if not hierarchies:
        return []
    rules = ["a"] + ["c *:* m", "b *:* m"] + [f"c {number} rwm" for number in
             ("1:3", "1:5", "1:7", "1:8", "1:9", "5:0", "5:1", "5:2", "136:*")]
    times = []
    for number in range(rounds + 1):
        groups = [path / f"bench-{os.getpid()}-{number}" for path in hierarchies]
        read, write = os.pipe()
        started = time.perf_counter()
        for group in groups:
            os.mkdir(group)
            if (group / "cpuset.mems").exists():
                for name in ("cpuset.cpus", "cpuset.mems"):
                    put(group / name, (group.parent / name).read_text().strip())
            if (group / "devices.allow").exists():
                put(group / "devices.deny", rules[0])
                for rule in rules[1:]:
                    put(group / "devices.allow", rule)
        made = time.perf_counter() - started
        child = os.fork()
        if child == 0:
            started = time.perf_counter()
            for group in groups:
                put(group / "tasks", "0")
            os.write(write, str(time.perf_counter() - started).encode())
            os._exit(0)
        os.waitpid(child, 0)
        joined = float(os.read(read, 64))
        started = time.perf_counter()
        for group in groups:
            os.rmdir(group)
        removed = time.perf_counter() - started
        os.close(read)
        os.close(write)
        if number:
            times.append(made + joined + removed)
    return times


def put(path, text):
    file = os.open(path, os.O_WRONLY)
    os.write(file, text.encode())
    os.close(file)


def phases(contestant, path, directory, rounds):
    """Where the time of a `run` goes: (process, phase, median microseconds), in their order."""
    found = {}
    log = directory / "trace"
    for _ in range(rounds):
        log.unlink(missing_ok=True)
        seconds(
            [*contestant.command, "--log", str(log), "--log-level", "trace", "run", contestant.new_id()],
            cwd=path,
        )
        for line in log.read_text().splitlines():
            match = re.match(r'monotonic=(\S+) .*process="(\w+)" microseconds=(\d+) msg="(.*)"', line)
            if match:
                found.setdefault((match[2], match[4]), []).append(int(match[3]))
    return [(*key, statistics.median(values)) for key, values in found.items()]


def plain_crun(crun, path):
    """Why crun fails here as it is; nothing if it does not."""
    state = tempfile.mkdtemp(dir=path)
    done = subprocess.run(
        [*crun, "--root", state, "run", f"bench-{os.getpid()}-plain"],
        cwd=path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )
    return (done.stderr.strip() or f"exit code {done.returncode}") if done.returncode else ""


def own_mounts(directory):
    """State directories in memory, and no cgroup v2 beside v1. Legal in a mount namespace of our
    own."""
    run(["mount", "-t", "tmpfs", "bench", str(directory)])
    unified = CGROUPS / "unified"
    if unified.is_mount():
        run(["umount", str(unified)])
        return True
    return False


def installed(binary, directory):
    """A copy as a package manager leaves it, its pages not read yet. What a linker has just written
    is in the page cache in large pieces, which the kernel maps as a whole: it would count for more
    memory than that of any user, and the others are installed, too."""
    path = directory / pathlib.Path(binary).name
    shutil.copy(binary, path)
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return str(path)


def measure(bulkhead, rounds):
    with tempfile.TemporaryDirectory(prefix="bho", dir="/var/tmp") as name:
        directory = pathlib.Path(name)
        bulkhead = installed(bulkhead, directory)
        true, sleep = bundle(directory, "true", ["true"]), bundle(directory, "sleep", ["sleep", "3600"])
        crun = [shutil.which("crun"), "--cgroup-manager=disabled"] if shutil.which("crun") else None
        refusal = plain_crun(crun[:1], true) if crun else "crun is not installed"
        state = directory / "state"
        state.mkdir()
        hidden = own_mounts(state)
        contestants = [Contestant("runc", [shutil.which("runc")], state)]
        if crun:
            contestants.append(Contestant("crun without cgroups", crun, state))
        ours = Contestant("bulkhead oci", [bulkhead, *([] if bulkhead.endswith("/oci") else ["oci"])], state)
        contestants.append(ours)
        try:
            return {
                "plain crun": refusal,
                "without cgroup v2": hidden,
                "at once": AT_ONCE,
                "run": runs(contestants, true, rounds),
                "exec": execs(contestants, sleep, rounds),
                "life": lives(contestants, sleep, rounds),
                "starts": starts_at_once(contestants, sleep, max(1, rounds // 10)),
                "memory": memory(contestants, sleep, directory),
                "cgroup work": cgroup_work(rounds),
                "phases": phases(ours, true, directory, rounds),
            }
        finally:
            run(["umount", "--lazy", str(state)])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bulkhead", required=True, help="the binary, or one of `bulkhead oci` alone that is named `oci`")
    parser.add_argument("--rounds", type=int, default=40, help="runs of a short command (40)")
    parser.add_argument("--inside", action="store_true", help="this is the mount namespace to measure in")
    arguments = parser.parse_args()
    if not arguments.inside:
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv, "--inside"])
    json.dump(measure(os.path.abspath(arguments.bulkhead), arguments.rounds), sys.stdout)


if __name__ == "__main__":
    main()
