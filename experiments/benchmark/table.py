"""The tables and the remarks of the speed benchmark, from its figures."""

import statistics
from typing import Any

from experiments.benchmark.group import fastest
from experiments.benchmark.rows import CACHED, LOSS, OURS
from rrd_jax.terminal import tables


def summary(groups: list[dict[str, Any]]) -> str:
    """A row for each group and teacher: ours beside the fastest PyTorch there is.

    Ours with a teacher remembered stands beside the fastest PyTorch with a table like it, and
    beside the fastest that runs its teacher.

    Args:
      groups: `Group.figures`.
    """
    header = ["images", "batch", "precision", "cores", "teacher, ours / theirs"]
    header += ["ours / fastest PyTorch", "rounds", "which"]
    header += ["MB at the peak", "ready after", "images/s", "ms a step"]
    rows = []
    for group in groups:
        for ours, theirs in ((LOSS, LOSS), (LOSS + CACHED, LOSS), (LOSS + CACHED, LOSS + CACHED)):
            if f"{OURS}: {ours}" in group["seconds"]:
                rows.append(_beside(group, ours, theirs))
    return tables.markdown(header, rows)


def _beside(group: dict[str, Any], ours: str, theirs: str) -> list[Any]:
    """Ours of one case beside the fastest peer's of a case."""
    peer = fastest(group, theirs)
    keys = [f"{OURS}: {ours}", *([f"{peer}: {theirs}"] if peer else [])]
    ratios = _ratios(group, keys[-1], keys[0]) if peer else []
    teacher = " / ".join(
        "remembered" if case.endswith(CACHED) else "runs" for case in (ours, theirs)
    )
    return [
        *_images(group),
        teacher,
        f"{statistics.median(ratios):.2f}" if ratios else "-",
        _spread(ratios),
        peer.removeprefix("torch, ") if peer else "-",
        _pair(group, keys, _megabytes, ""),
        _pair(group, keys, _start, "s"),
        _pair(group, keys, _rate, ""),
        _pair(group, keys, _milliseconds, ""),
    ]


def readers(groups: list[dict[str, Any]]) -> str:
    """A row for each reader and case; the fastest PyTorch of each is marked by a star."""
    header = ["images", "batch", "precision", "cores", "reader", "loss", "teacher", "ours / it"]
    header += ["rounds", "MB at the peak", "ready after", "images/s", "ms a step"]
    rows = []
    for group in groups:
        rows += [_row(group, key) for key in group["seconds"]]
        for name in group["failed"]:
            row = [*_images(group), name, LOSS, "failed"]
            rows.append(row + ["-"] * (len(header) - len(row)))
    return tables.markdown(header, rows)


def _row(group: dict[str, Any], key: str) -> list[Any]:
    name, _, case = key.partition(": ")
    method, _, is_cached = case.partition(", ")
    teacher = "-" if method == "ce" else "remembered" if is_cached else "runs"
    ratios = _ratios(group, key, f"{OURS}: {LOSS}{CACHED if is_cached else ''}")
    mark = " *" if name == fastest(group, case) else ""
    row = [*_images(group), name + mark, method, teacher, f"{statistics.median(ratios):.2f}"]
    row += [_spread(ratios), _pair(group, [key], _megabytes, ""), _pair(group, [key], _start, "s")]
    return [*row, _pair(group, [key], _rate, ""), _pair(group, [key], _milliseconds, "")]


def _images(group: dict[str, Any]) -> list[Any]:
    task = group["task"]
    cores = "-" if group["cores"] is None else group["cores"] or "all"
    return [f"{group['size']}, {task['side']} px", task["batch_size"], group["precision"], cores]


def _ratios(group: dict[str, Any], key: str, reference: str) -> list[float]:
    """By round, the time of a reader's case over that of a reference."""
    rounds = zip(group["seconds"][key], group["seconds"][reference], strict=False)
    return [seconds / in_reference for seconds, in_reference in rounds]


def _spread(ratios: list[float]) -> str:
    return f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "-"


def _pair(group: dict[str, Any], keys: list[str], figure: Any, unit: str) -> str:
    """A figure of each key, such as "12 / 15 s"; a dash where it is not known."""
    shown = [figure(group, key) for key in keys]
    return f"{' / '.join(shown)} {unit if set(shown) != {'-'} else ''}".strip()


def _megabytes(group: dict[str, Any], key: str) -> str:
    number = group["bytes"].get(key, {}).get("bytes")
    return f"{number / 1e6:.0f}" if number else "-"


def _start(group: dict[str, Any], key: str) -> str:
    name, _, case = key.partition(": ")
    return f"{group['ready'][name]['start'][case]:.0f}"


def _rate(group: dict[str, Any], key: str) -> str:
    return f"{group['task']['batch_size'] / statistics.median(group['seconds'][key]):,.0f}"


def _milliseconds(group: dict[str, Any], key: str) -> str:
    return f"{1000 * statistics.median(group['seconds'][key]):.3f}"


def remarks(group: dict[str, Any]) -> list[str]:
    """Returns failures of peers, and how peers launch their steps."""
    task = group["task"]
    label = f"{group['size']}, batch {task['batch_size']}, {group['precision']}"
    lines = [f"{label}: {name} failed: {reason}" for name, reason in group["failed"].items()]
    for name, ready in group["ready"].items():
        if ready.get("launched", "one by one") != "one by one":
            lines.append(f"{label}: {name} launches {ready['launched']}.")
    return lines
