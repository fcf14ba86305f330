"""The tables of the report."""

import re

from timing import median, shown, spread


def verdict(what, target, value, limit, form):
    if value is None:
        return f"| {what} | {target} | not measured | |"
    return f"| {what} | {target} | {form(value)} | {'met' if value <= limit else '**missed**'} |"


def ratio(value):
    return f"1/{1 / value:.1f}" if value < 1 else f"{value:.2f}"


def times(measured, reference):
    """A table; with a reference, each time as a part of the reference's."""
    base = median(measured.get(reference)) if reference else None
    title = f" against {reference} |" if base else ""
    lines = [f"| | median | fastest to slowest |{title}", "|---|---|---|" + ("---|" if base else "")]
    for name, values in measured.items():
        value = median(values)
        if value is None:
            reason = values if isinstance(values, str) else "no run"
            # The command itself is known, and its paths are of no use to a reader.
            why = reason.split(": exit code ")[-1]
            lines.append(f"| {name} | not measured | {cell(why)} |" + (" |" if base else ""))
            continue
        lines.append(
            f"| {name} | {shown(value)} | {spread(values)} |" + (f" {ratio(value / base)} |" if base else "")
        )
    return lines


def cell(reason):
    """A reason that fits a table."""
    return re.sub(r"\s+", " ", reason).replace("|", "\\|")[:200]
