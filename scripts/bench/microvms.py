"""What the start of a static web server takes, step by step: in a container, in a micro VM that boots
and in one that goes on from a template, beside plain QEMU with the same kernel."""

import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tarfile
import time

from timing import Failed, run

IMAGE = "bench-static"
BUSYBOX = "/bin/busybox"
PORT = 80

BOOTS = "micro VM that boots"
GOES_ON = "micro VM from a template"
CONTAINER = "container"
FLOOR = "plain QEMU, the same kernel"

ANSWERED = "the start is answered"
READY = "the agent is ready"
RUNS = "the workload runs"
SERVED = "first HTTP 200"


class Unix(http.client.HTTPConnection):
    """HTTP over a socket of the file system."""

    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


class Starts:
    def __init__(self, bulkhead, directory):
        self.bulkhead = bulkhead
        self.templates = pathlib.Path(os.environ["BULKHEAD_CACHE"]) / "templates"
        self.aside = self.templates.with_name("templates-aside")
        tar = pathlib.Path(directory) / "static.tar"
        page = pathlib.Path(directory) / "index.html"
        page.write_text("static\n")
        with tarfile.open(tar, "w") as archive:
            archive.add(BUSYBOX, "bin/busybox")
            archive.add(page, "www/index.html")
        run([*bulkhead.command, "import", str(tar), IMAGE])

    def api(self, method, path, body=None):
        connection = Unix(f"{self.bulkhead.root}/run/bulkhead.sock")
        text = json.dumps(body) if body is not None else None
        connection.request(method, path, text, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        if response.status >= 300:
            raise Failed(f"{method} {path}: exit code {response.status}: {answer.decode()}")
        return json.loads(answer) if answer else None

    @contextlib.contextmanager
    def started(self, runtime, *command):
        """A sandbox that has just been started: its id, when that was asked for, and when answered."""
        body = {"Image": IMAGE, "Cmd": ["/bin/busybox", *command], "HostConfig": {"Runtime": runtime}}
        sandbox = self.api("POST", "/containers/create", body)["Id"]
        try:
            asked = time.perf_counter()
            self.api("POST", f"/containers/{sandbox}/start")
            yield sandbox, asked, time.perf_counter()
        finally:
            self.api("DELETE", f"/containers/{sandbox}?force=1&v=1")

    def once(self, runtime):
        """One start: step -> seconds since it was asked for. The agent's steps count from when the
        monitor was asked for, some milliseconds later."""
        with self.started(runtime, "httpd", "-f", "-p", str(PORT), "-h", "/www") as (sandbox, asked, answered):
            details = self.api("GET", f"/containers/{sandbox}/json")
            wait_for_page(next(iter(details["NetworkSettings"]["Networks"].values()))["IPAddress"])
            steps = {ANSWERED: answered - asked, SERVED: time.perf_counter() - asked}
            return steps | (self.phases(sandbox) if runtime == "microvm" else {})

    def phases(self, sandbox):
        log = pathlib.Path(self.bulkhead.root) / f"lib/sandboxes/{sandbox}/supervisor.log"
        found = dict(re.findall(r"agent: (.+) microseconds=(\d+)$", log.read_text(), re.M))
        # An agent that goes on from a template was ready when the template was taken.
        ready = found.get("agent ready", found["monitor runs"])
        return {READY: int(ready) / 1e6, RUNS: int(found["workload runs"]) / 1e6}

    @contextlib.contextmanager
    def no_template(self):
        """Guests that are started meanwhile boot."""
        os.rename(self.templates, self.aside)
        try:
            yield
        finally:
            # What the daemon may have made meanwhile is the same.
            shutil.rmtree(self.templates, ignore_errors=True)
            os.rename(self.aside, self.templates)

    def without_template(self):
        with self.no_template():
            return self.once("microvm")

    def wait_for_template(self):
        """The first guest of a size lets the daemon make its template."""
        self.once("microvm")
        deadline = time.monotonic() + 60
        while not list(self.templates.glob("*/identity")):
            if time.monotonic() > deadline:
                raise Failed("no template was made within a minute")
            time.sleep(0.1)

    def floor(self):
        """A function that boots plain QEMU as a guest of ours is booted, until its agent speaks."""
        with self.no_template(), self.started("microvm", "sleep", "60") as (sandbox, *_):
            pid = self.api("GET", f"/containers/{sandbox}/json")["State"]["Pid"]
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        arguments = []
        for name in ("-accel", "-cpu", "-smp", "-m", "-machine", "-kernel", "-initrd", "-append"):
            arguments += [name, words[words.index(name) + 1]]
        return lambda: boot(words[0], arguments)


def boot(program, arguments):
    ours, theirs = socket.socketpair()
    console, console_theirs = socket.socketpair()
    with ours, console:
        with theirs, console_theirs:
            command = [
                program, "-nodefaults", "-no-user-config", "-display", "none", *arguments,
                "-chardev", f"socket,id=agent,fd={theirs.fileno()}",
                "-chardev", f"socket,id=console,fd={console_theirs.fileno()}", "-serial", "chardev:console",
                "-device", "virtio-serial-device", "-device", "virtserialport,chardev=agent,name=bulkhead.agent",
                "-device", "virtio-rng-device",
            ]
            started = time.perf_counter()
            monitor = subprocess.Popen(command, pass_fds=[theirs.fileno(), console_theirs.fileno()])
        try:
            ours.settimeout(60)
            if not ours.recv(1):
                raise Failed("plain QEMU ended before its agent spoke")
            return {READY: time.perf_counter() - started}
        finally:
            monitor.kill()
            monitor.wait()


def wait_for_page(address):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(address, PORT, timeout=0.2)
            connection.request("GET", "/index.html")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.001)
    raise Failed(f"no page at {address} within a minute")


def measure(bulkhead, directory, rounds):
    """contestant -> step -> list of seconds; or why not."""
    try:
        starts = Starts(bulkhead, directory)
        starts.wait_for_template()
        contestants = {
            CONTAINER: lambda: starts.once("container"),
            GOES_ON: lambda: starts.once("microvm"),
            BOOTS: starts.without_template,
            FLOOR: starts.floor(),
        }
        figures = {name: {} for name in contestants}
        for number in range(rounds + 1):
            for name, contestant in contestants.items():
                steps = contestant()
                if number:
                    for step, value in steps.items():
                        figures[name].setdefault(step, []).append(value)
        return figures
    except Failed as error:
        return str(error)
