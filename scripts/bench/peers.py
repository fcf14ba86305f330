"""What Bulkhead is measured against: Docker, podman, nginx and haproxy, each its own instance in a
temporary directory, ended afterwards. One that is not installed answers None."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time

from timing import Failed, run


@contextlib.contextmanager
def docker(directory, tar, image):
    """A Docker daemon with the image made of the tar; the value is the client's command."""
    if not shutil.which("dockerd") or not shutil.which("docker"):
        yield None
        return
    os.makedirs(directory)
    address = f"unix://{directory}/docker.sock"
    # Its bridge and its packet filter rules are in a network namespace of its own, and end with it.
    script = (
        "ip link set lo up && exec dockerd"
        f" --host {address} --data-root {directory}/data --exec-root {directory}/exec"
        f" --pidfile {directory}/pid --storage-driver overlay2"
    )
    with open(f"{directory}/log", "w", encoding="utf-8") as log:
        daemon = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", script], stdout=log, stderr=log
        )
    client = ["docker", "--host", address]
    try:
        wait(lambda: run([*client, "version"]), daemon)
        run([*client, "import", tar, image])
        yield client
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(60)


@contextlib.contextmanager
def podman(directory, tar, image):
    """podman with the image made of the tar; the value is its command."""
    if not shutil.which("podman"):
        yield None
        return
    os.makedirs(directory)
    # Its bridge and its packet filter tables are in a network namespace of its own, and end with it.
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set lo up && echo && exec sleep infinity"], stdout=subprocess.PIPE
    )
    holder.stdout.readline()
    command = ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]
    command += ["podman", "--root", f"{directory}/data", "--runroot", f"{directory}/run"]
    try:
        run([*command, "import", tar, image])
        yield command
    finally:
        # podman mounts its storage onto itself, which `os.path.ismount` does not see, and leaves it.
        subprocess.run(["umount", "--lazy", f"{directory}/data/overlay"], capture_output=True, check=False)
        holder.kill()
        holder.wait()


@contextlib.contextmanager
def nginx(directory, upstream):
    """nginx as a reverse proxy with kept connections; the value is its address."""
    if not shutil.which("nginx"):
        yield None
        return
    address = free_address()
    os.makedirs(directory)
    with open(f"{directory}/nginx.conf", "w", encoding="utf-8") as file:
        file.write(
            f"pid {directory}/pid; error_log {directory}/log; worker_processes 1; daemon off;\n"
            "events { worker_connections 1024; }\n"
            f"http {{ access_log {directory}/access; client_body_temp_path {directory}/body;\n"
            f"proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/f;\n"
            f"uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;\n"
            f"upstream shop {{ server {upstream}; keepalive 64; }}\n"
            f"server {{ listen {address}; location / {{ proxy_pass http://shop;\n"
            'proxy_http_version 1.1; proxy_set_header Connection ""; } } }\n'
        )
    with server(["nginx", "-p", directory, "-c", f"{directory}/nginx.conf"], address):
        yield address


@contextlib.contextmanager
def haproxy(directory, upstream):
    """haproxy as a reverse proxy with kept connections; the value is its address."""
    if not shutil.which("haproxy"):
        yield None
        return
    address = free_address()
    os.makedirs(directory)
    with open(f"{directory}/haproxy.cfg", "w", encoding="utf-8") as file:
        file.write(
            "global\n  nbthread 1\n"
            "defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
            f"  http-reuse always\nfrontend f\n  bind {address}\n  default_backend b\n"
            f"backend b\n  server s {upstream}\n"
        )
    with server(["haproxy", "-db", "-f", f"{directory}/haproxy.cfg"], address):
        yield address


@contextlib.contextmanager
def server(command, address):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    host, port = address.split(":")
    try:
        wait(lambda: socket.create_connection((host, int(port)), 1).close(), process)
        yield
    finally:
        process.terminate()
        process.wait(30)


def free_address():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


def wait(ask, process):
    """Asks until there is an answer; raises Failed if the process ends or half a minute passes."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return ask()
        except (Failed, OSError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{process.args} does not answer: {error}") from error
            time.sleep(0.1)
