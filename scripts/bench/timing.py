"""Timing of commands, and what is made of the times."""

import statistics
import subprocess
import time


class Failed(Exception):
    """A command that was to be measured did not succeed."""


def run(command, **options):
    """Runs a command, a list of words, and returns its stdout; raises Failed with its stderr."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **options
    )
    if done.returncode != 0:
        words = " ".join(map(str, command))
        raise Failed(f"{words}: exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-400:]}")
    return done.stdout


def seconds(command, **options):
    """How long a command takes, by the wall clock. Its output goes nowhere: no pipe is read."""
    started = time.perf_counter()
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        **options,
    )
    elapsed = time.perf_counter() - started
    if done.returncode != 0:
        run(command, **options)
        raise Failed(f"{command}: exit code {done.returncode} at first, then none")
    return elapsed


def interleaved(contestants, rounds):
    """Times of each contestant: name -> list of seconds.

    Every round has each contestant once, so that what else the machine does meets all alike. The
    first round warms caches and is not counted. A contestant is a function without arguments that
    returns its seconds; one that raises Failed leaves the race, and its name has the reason.
    """
    times = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, contestant in contestants.items():
            if isinstance(times[name], str):
                continue
            try:
                elapsed = contestant()
            except Failed as error:
                times[name] = str(error)
                continue
            if number:
                times[name].append(elapsed)
    return times


def median(times):
    """The median, or None where there is no figure."""
    return statistics.median(times) if isinstance(times, list) and times else None


def shown(value):
    """A time for people: three digits that count."""
    if value is None:
        return "not measured"
    if value < 0.001:
        return f"{value * 1e6:.0f} µs"
    if value < 1:
        return f"{value * 1e3:.1f} ms" if value < 0.1 else f"{value * 1e3:.0f} ms"
    return f"{value:.2f} s"


def spread(times):
    """Fastest and slowest."""
    if not isinstance(times, list) or not times:
        return ""
    return f"{shown(min(times))} to {shown(max(times))}"
