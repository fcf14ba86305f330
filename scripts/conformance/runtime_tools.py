#!/usr/bin/env python3
"""Runs the validation programs of the OCI runtime-tools with several runtimes, side by side.

Builds and fetches nothing: DIRECTORY is a checkout of them in which `make runtimetest
validation-executables` has been run. Each program gets a state directory and a place for its
bundles of its own, which are emptied after it, so that what a program leaves behind cannot
disturb the next. The first runtime is the reference: the exit code is 1 if another one does not
pass a program that it passes.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

# Programs wait up to 10 seconds for a container's end, some for several containers.
LIMIT_SECONDS = 180
RESULT = re.compile(r"^(not )?ok\b(?: (\d+))?(?: - | )?(.*)$")


def main():
    arguments = parser().parse_args()
    runtimes = dict(text.split("=", 1) for text in arguments.runtime)
    programs = found(arguments.directory, arguments.only)
    results = {
        name: run_all(command, programs, arguments) for name, command in runtimes.items()
    }
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
            file.write("\n")
    text = markdown(results)
    if arguments.markdown:
        with open(arguments.markdown, "w", encoding="utf-8") as file:
            file.write(text)
    print(text, end="")
    return 1 if any(behind(results)) else 0


def parser():
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("directory", help="where the programs were built")
    result.add_argument(
        "--runtime",
        action="append",
        required=True,
        metavar="NAME=COMMAND",
        help="a runtime's name and its command line; the first is the reference",
    )
    result.add_argument("--only", default="", help="an expression that the names must match")
    result.add_argument("--json", help="the file for the results")
    result.add_argument("--markdown", help="the file for the section of the report")
    return result


def found(directory, expression):
    """The programs by name: `validation/create/create.t` is `create`."""
    validation = os.path.join(directory, "validation")
    programs = {}
    for folder, _, files in os.walk(validation):
        for file in files:
            name = file.removesuffix(".t")
            if file.endswith(".t") and re.search(expression, name):
                programs[name] = os.path.abspath(os.path.join(folder, file))
    if not programs:
        sys.exit(f"{validation}: no program ending in .t is there: build them first")
    return dict(sorted(programs.items()))


def run_all(command, programs, arguments):
    # One after another, as many of them take the same cgroup.
    return {
        name: run(command, path, arguments.directory) for name, path in programs.items()
    }


def run(command, program, directory):
    """One program with one runtime: its status, and what its single tests said."""
    # Below /var/tmp: a shared /tmp may be a file system without devices.
    with tempfile.TemporaryDirectory(prefix="runtime-tools-", dir="/var/tmp") as temporary:
        state = os.path.join(temporary, "state")
        bundles = os.path.join(temporary, "bundles")
        os.makedirs(bundles)
        wrapper = os.path.join(temporary, "runtime")
        with open(wrapper, "w", encoding="utf-8") as file:
            file.write(f'#!/bin/sh\nexec {command} --root {state} "$@"\n')
        os.chmod(wrapper, 0o755)
        environment = dict(os.environ, RUNTIME=wrapper, TMPDIR=bundles)
        try:
            done = subprocess.run(
                # A container without a mount namespace mounts where the runtime is.
                ["unshare", "--mount", program],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=LIMIT_SECONDS,
            )
            return outcome(done.returncode, done.stdout, done.stderr)
        except subprocess.TimeoutExpired:
            return {"status": "failed", "ok": 0, "failed": [], "skipped": [], "reason": "timed out"}
        finally:
            remove_containers(wrapper, state)


def remove_containers(wrapper, state):
    for identifier in os.listdir(state) if os.path.isdir(state) else []:
        subprocess.run(
            [wrapper, "delete", "--force", identifier],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
        )
    shutil.rmtree(state, ignore_errors=True)


def outcome(code, output, errors):
    """What the lines of the Test Anything Protocol say; nested ones are indented and count with
    the line that sums them up."""
    passed, failed, skipped = 0, [], []
    lines = output.splitlines()
    for index, line in enumerate(lines):
        match = RESULT.match(line)
        if not match:
            continue
        text = match[3].strip()
        if re.search(r"# skip", text, re.IGNORECASE):
            skipped.append(re.sub(r"^#\s*", "", text))
        elif match[1] and "# TODO" not in text:
            failed.append(": ".join(filter(None, [text, detail(lines[index + 1 :])])))
        else:
            passed += 1
    reason = None
    if code != 0:
        last = [line for line in (errors + output).splitlines() if line.strip()]
        reason = f"exit code {code}: {' / '.join(last[-2:])}"
    elif not passed and not skipped:
        # Some programs count nothing, and say what is wrong alone.
        reason = detail(lines)
    if reason or failed:
        status = "failed"
    elif passed or not skipped:
        status = "passed"
    else:
        status = "skipped"
    return {
        "status": status,
        "ok": passed,
        "failed": failed,
        "skipped": skipped,
        "reason": reason,
    }


def detail(following):
    """The error in the first indented block, which is that of the result before it."""
    for line in following:
        if RESULT.match(line):
            return None
        match = re.match(r'^\s+"?(?:error|stderr)"?: (.+)$', line)
        if match:
            return match[1].strip().rstrip(",").strip('"')
    return None


def behind(results):
    """Names of programs that the reference passes and another runtime does not."""
    reference, *others = results
    for program, result in results[reference].items():
        if result["status"] == "passed":
            if any(results[other][program]["status"] != "passed" for other in others):
                yield program


def markdown(results):
    names = list(results)
    programs = list(results[names[0]])
    lines = [
        "## OCI runtime-tools",
        "",
        "The validation programs, each with each runtime on one host. A program counts as passed when",
        "it ends with code 0, none of its checks fails, and it tells of no error.",
        "",
        "| runtime | passed | skipped | failed | checks passed | checks failed |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        all_of_it = results[name].values()
        counts = [
            sum(result["status"] == status for result in all_of_it)
            for status in ("passed", "skipped", "failed")
        ]
        counts.append(sum(result["ok"] for result in all_of_it))
        counts.append(sum(len(result["failed"]) for result in all_of_it))
        lines.append(f"| {name} | {' | '.join(map(str, counts))} |")
    lost = list(behind(results))
    lines += [
        "",
        f"Programs that {names[0]} passes and another runtime does not: "
        + (", ".join(f"`{program}`" for program in lost) or "none")
        + ".",
        "",
        f"| program | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    for program in programs:
        cells = " | ".join(results[name][program]["status"] for name in names)
        lines.append(f"| `{program}` | {cells} |")
    for name in names:
        reasons = [
            f"- `{program}`: {why}"
            for program, result in results[name].items()
            for why in told(result)
        ]
        if reasons:
            lines += ["", f"What failed or was skipped with {name}:", "", *reasons]
    return "\n".join(lines) + "\n"


def told(result):
    """Why a program is not simply passed, each reason once."""
    reasons = [*result["failed"]]
    if result["reason"]:
        reasons.append(result["reason"])
    if result["status"] == "skipped":
        reasons += [f"skipped: {why}" for why in result["skipped"]]
    # Paths of bundles and identifiers differ in each run, and say nothing.
    return [shortened(reason) for reason in dict.fromkeys(reasons)]


def shortened(text):
    text = re.sub(r"/var/tmp/runtime-tools-\w+", "…", text)
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}", "ID", text)
    text = text.replace("|", "\\|").replace("<", "\\<")
    return text if len(text) <= 400 else text[:399] + "…"


if __name__ == "__main__":
    sys.exit(main())
