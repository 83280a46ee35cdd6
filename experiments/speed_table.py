"""The table and the remarks of the speed benchmark, from its figures."""

import statistics
from typing import Any

from rrd_jax import parallel, report

OURS, LOSS, CACHED = "rrd_jax", "rrd+kd", ", remembered"
_EPOCHS = 240


def summary(groups: list[dict[str, Any]], *, absolute: bool) -> str:
    """A row for each reader and case, with medians over the rounds.

    A ratio is the median of the ratios of each round, in which the two ran one after the other.

    Args:
      groups: `Group.figures` of each size and batch.
      absolute: whether to show times, or only ratios.
    """
    header = ["images", "batch", "reader", "loss", "teacher"]
    if absolute:
        header += ["images/s", "ms a step", "of bf16 peak"]
    header += ["ours / it", "ours, remembered / it", "ready after"]
    rows = []
    for group in groups:
        rows += [_row(group, key, absolute) for key in group["seconds"]]
        for name in group["failed"]:
            row = [*_images(group), name, LOSS, "failed"]
            rows.append(row + ["-"] * (len(header) - len(row)))
    return report.table(header, rows)


def _row(group: dict[str, Any], key: str, absolute: bool) -> list[Any]:
    seconds, ready = group["seconds"][key], group["ready"]
    name, _, case = key.partition(": ")
    method, _, is_cached = case.partition(", ")
    teacher = "-" if method == "ce" else "remembered" if is_cached else "runs"
    row = [*_images(group), name, method, teacher]
    if absolute:
        row += _speed(group, case, statistics.median(seconds))
    for our_case in (f"{OURS}: {LOSS}", f"{OURS}: {LOSS}{CACHED}"):
        measured = our_case in group["seconds"]
        row.append(f"{_ratio(group, key, our_case):.2f}" if measured else "-")
    start = ready[name]["start"]
    return [*row, f"{start[case] if name == OURS else start:.0f} s"]


def _images(group: dict[str, Any]) -> tuple[str, int]:
    task = group["task"]
    return f"{group['size']}, {task['side']} px", task["batch_size"]


def _speed(group: dict[str, Any], case: str, seconds: float) -> tuple[str, str, str]:
    """Images a second, milliseconds a step, and the share of the device's peak."""
    ready, batch_size = group["ready"][OURS], group["task"]["batch_size"]
    peak = parallel.peak_flops(ready["device"])
    share = f"{100 * ready['flops'][case] / seconds / peak:.1f} %" if peak else "-"
    return f"{batch_size / seconds:,.0f}", f"{1000 * seconds:.3f}", share


def _ratio(group: dict[str, Any], key: str, reference: str) -> float:
    """The time of a reader's case over that of a reference."""
    rounds = zip(group["seconds"][key], group["seconds"][reference], strict=False)
    return statistics.median(seconds / in_reference for seconds, in_reference in rounds)


def remarks(group: dict[str, Any], *, absolute: bool) -> list[str]:
    """Sentences: the cost of RRD, cost and gain of a cached teacher, and what peers reported."""
    task = group["task"]
    label = f"{group['size']}, batch {task['batch_size']}"
    lines = [f"{label}: RRD changes the time of a step of ce+kd by {_added(group, '')}"]
    if f"{OURS}: {LOSS}{CACHED}" in group["seconds"]:
        lines[0] += f", by {_added(group, CACHED)} with the teacher remembered"
        lines.append(f"{label}: {_about_cache(group, absolute)}.")
    lines[0] += "."
    if not task["crops"]:
        lines.append(
            f"{label}: steps get images that are cut already; no published loop, no table."
        )
    for name, reason in group["failed"].items():
        lines.append(f"{label}: {name} failed: {reason}")
    for name, ready in group["ready"].items():
        if ready.get("launched", "one by one") != "one by one":
            lines.append(f"{label}: {name} launches {ready['launched']}.")
    return lines


def _added(group: dict[str, Any], teacher: str) -> str:
    """What RRD adds to the time of a step; teacher is "" or CACHED."""
    ratio = _ratio(group, f"{OURS}: {LOSS}{teacher}", f"{OURS}: ce+kd{teacher}")
    return f"{100 * (ratio - 1):+.1f} %"


def _about_cache(group: dict[str, Any], absolute: bool) -> str:
    task, seconds = group["task"], group["seconds"]
    steps = _EPOCHS * (task["examples"] // task["batch_size"])
    fill = group["ready"][OURS]["fill"]
    live = statistics.median(seconds[f"{OURS}: {LOSS}"]) * steps
    cached = fill + statistics.median(seconds[f"{OURS}: {LOSS}{CACHED}"]) * steps
    text = f"a run of {_EPOCHS} epochs takes {cached / live:.2f} of the time if the"
    text += " teacher is remembered, its look at all views included"
    if absolute:
        text += f": {cached:.0f} s, {fill:.0f} s of them once, in place of {live:.0f} s"
    return text
