#!/usr/bin/env python3
"""Runs runc's own integration suite with several runtimes, and reports what they pass.

Builds and fetches nothing. SUITE is a checkout of runc in which `make all test-binaries` has been
run, with the archives of its root filesystems in tests/integration/testdata, as its
get-images.sh names them. These programs must be there: bats 1.5 or later, script, gawk, jq,
setfattr, newuidmap, ps, ip, gcc, and for some tests criu and sshfs; what is not there is skipped
or fails, with both runtimes alike.

A runtime is the path of a program that is called `runc`, as the suite looks for this name in its
output: for Bulkhead a script of two lines, the second `exec bulkhead oci "$@"`. The first runtime
is the reference: the exit code is 1 if another one does not pass a test that it passes, or if a
failure has no reason in the file of reasons.

Every file of the suite is run by itself under a terminal, as root or with --user; its output is
kept below --output, from which --report makes the report again without a run.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile

# The longest file takes four minutes on two cores that are busy with other work.
LIMIT_SECONDS = 900
RESULT = re.compile(r"^(ok|not ok) \d+ (.*?)(?: in \d+ms)?(?: # skip ?(.*))?$")
# What an ordinary user's tests are told of its subordinate ids, if it has any.
IDENTIFIERS = {
    "ROOTLESS_FEATURES": "idmap",
    "ROOTLESS_UIDMAP_START": "100000",
    "ROOTLESS_UIDMAP_LENGTH": "65536",
    "ROOTLESS_GIDMAP_START": "200000",
    "ROOTLESS_GIDMAP_LENGTH": "65536",
}
CONTEXTS = {
    "root": "As root",
    "user": "As an ordinary user, one id mapped",
    "idmap": "As an ordinary user with subordinate ids (`newuidmap`)",
}


def main():
    arguments = parser().parse_args()
    runtimes = dict(text.split("=", 1) for text in arguments.runtime)
    contexts = arguments.context or (list(CONTEXTS) if arguments.user else ["root"])
    if not arguments.report:
        for context in contexts:
            for name, program in runtimes.items():
                run_all(arguments, context, name, program)
    results = {}
    for context in CONTEXTS:
        read = {name: results_of(os.path.join(arguments.output, context, name)) for name in runtimes}
        if all(read.values()):
            results[context] = read
    with open(arguments.reasons, encoding="utf-8") as file:
        reasons = [(re.compile(entry["test"]), entry) for entry in json.load(file)]
    text, complete = report(results, list(runtimes), reasons)
    for section in arguments.append:
        with open(section, encoding="utf-8") as file:
            text += "\n" + file.read()
    if arguments.markdown:
        with open(arguments.markdown, "w", encoding="utf-8") as file:
            file.write(text)
    else:
        print(text, end="")
    return 0 if complete else 1


def parser():
    here = os.path.dirname(os.path.abspath(__file__))
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("suite", help="the checkout of runc")
    result.add_argument(
        "--runtime",
        action="append",
        required=True,
        metavar="NAME=PROGRAM",
        help="a runtime's name and the program; the first is the reference",
    )
    result.add_argument("--output", required=True, help="the directory for what bats says")
    result.add_argument("--only", default="", help="an expression that the files must match")
    result.add_argument(
        "--user",
        help="run the suite as this user too, whose subordinate ids are 100000 to 165535 for users "
        "and 200000 to 265535 for groups",
    )
    result.add_argument(
        "--context", action="append", choices=list(CONTEXTS), help="run this alone; may be repeated"
    )
    result.add_argument("--report", action="store_true", help="only report what has been run")
    result.add_argument("--markdown", help="the file for the report")
    result.add_argument(
        "--append", action="append", default=[], help="a file with one more section of the report"
    )
    result.add_argument("--reasons", default=os.path.join(here, "reasons.json"))
    return result


def run_all(arguments, context, name, program):
    folder = os.path.join(arguments.suite, "tests", "integration")
    output = os.path.join(arguments.output, context, name)
    os.makedirs(output, exist_ok=True)
    for file in sorted(os.listdir(folder)):
        if not file.endswith(".bats") or not re.search(arguments.only, file):
            continue
        with tempfile.TemporaryDirectory(prefix="runc-suite-", ignore_cleanup_errors=True) as place:
            os.chmod(place, 0o1777)
            environment = dict(os.environ, RUNC=os.path.abspath(program), TMPDIR=place)
            environment["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"
            command = f"timeout -k 20 {LIMIT_SECONDS} bats -t --timing {file}"
            if context != "root":
                command = f"sudo -HE -u {arguments.user} PATH=\"$PATH\" {command}"
            if context == "idmap":
                environment.update(IDENTIFIERS)
            text = under_terminal(command, folder, environment)
        with open(os.path.join(output, file.removesuffix(".bats") + ".tap"), "w") as tap:
            tap.write(text)
        print(f"{context} {name} {file}: {summary(parsed(text))}", file=sys.stderr)


def under_terminal(command, folder, environment):
    # script(1) ends the terminal's input when its own ends, which tests take for a key: it must
    # stay open.
    read, write = os.pipe()
    with subprocess.Popen(
        ["script", "-qefc", command, "/dev/null"],
        cwd=folder,
        env=environment,
        stdin=read,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        os.close(read)
        text = process.stdout.read().decode(errors="replace")
    os.close(write)
    return text.replace("\r", "")


def parsed(text):
    """The status of each test by its name: passed, skipped or failed."""
    tests = {}
    for line in text.splitlines():
        match = RESULT.match(line)
        if not match:
            continue
        failed, skipped = match[1] == "not ok", match[3] is not None
        status = "failed" if failed else "skipped" if skipped else "passed"
        tests[" ".join(match[2].split())] = status
    count = re.search(r"^1\.\.(\d+)$", text, re.MULTILINE)
    # bats counts a test that it was ended in as if it were not there.
    for number in range(len(tests), int(count[1]) if count else len(tests)):
        tests[f"test {number + 1} (not reached)"] = "failed"
    return tests


def results_of(folder):
    """For each file of the suite the tests with their status."""
    results = {}
    for file in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        with open(os.path.join(folder, file), encoding="utf-8", errors="replace") as tap:
            results[file.removesuffix(".tap")] = parsed(tap.read())
    return results


def counts(tests):
    values = list(tests.values())
    return [values.count(status) for status in ("passed", "skipped", "failed")]


def summary(tests):
    return "{} passed, {} skipped, {} failed".format(*counts(tests))


def report(results, names, reasons):
    """The text, and whether all is as it should be."""
    lines = [
        "# Conformance",
        "",
        f"{' and '.join(names)} on one host: runc's own integration suite, as",
        "`scripts/conformance/runc_suite.py` runs it, which wrote this; the reasons are in",
        "`scripts/conformance/reasons.json`.",
    ]
    complete = True
    for context, of_runtime in results.items():
        files = sorted(set().union(*of_runtime.values()))
        lines += ["", f"## runc's integration suite. {CONTEXTS[context]}", ""]
        lines += table(files, names, of_runtime)
        behind, notes, known = compare(context, files, names, of_runtime, reasons)
        complete = complete and known and not behind
        lines += ["", f"Tests that {names[0]} passes and another runtime does not: {len(behind)}."]
        lines += ["", "| file | test | " + " | ".join(names) + " | reason |"] if notes else []
        lines += ["|---|---|" + "---|" * len(names) + "---|", *notes] if notes else []
    return "\n".join(lines) + "\n", complete


def table(files, names, of_runtime):
    heads = [f"{name}: passed | skipped | failed" for name in names]
    lines = [f"| file | {' | '.join(heads)} |", "|---|" + "---|" * (3 * len(names))]
    totals = [0] * (3 * len(names))
    for file in files:
        row = [number for name in names for number in counts(of_runtime[name].get(file, {}))]
        totals = [total + number for total, number in zip(totals, row)]
        lines.append(f"| {file} | {' | '.join(map(str, row))} |")
    lines.append("| **all** | " + " | ".join(f"**{total}**" for total in totals) + " |")
    return lines


def compare(context, files, names, of_runtime, reasons):
    """What another runtime does not pass and the reference does; a row for each test that failed
    or differs; and whether each has a reason."""
    behind, rows, known = [], [], True
    for file in files:
        tests = dict.fromkeys(test for name in names for test in of_runtime[name].get(file, {}))
        for test in tests:
            statuses = [of_runtime[name].get(file, {}).get(test, "not run") for name in names]
            if len(set(statuses)) == 1 and statuses[0] != "failed":
                continue
            if statuses[0] == "passed":
                behind.append(test)
            reason = reason_of(context, file, test, statuses, reasons)
            known = known and reason is not None
            cells = [file, test, *statuses, reason or "**no reason is written down**"]
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return behind, rows, known


def reason_of(context, file, test, statuses, reasons):
    for expression, entry in reasons:
        if not expression.search(f"{file}: {test}"):
            continue
        if entry.get("contexts", [context]).count(context) and all(
            status in ("failed", "not run") or not entry.get("all") for status in statuses
        ):
            return entry["reason"]
    return None


if __name__ == "__main__":
    sys.exit(main())
