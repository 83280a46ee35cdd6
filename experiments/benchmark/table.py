"""The tables and remarks of the speed benchmark."""

import statistics
from typing import Any

from experiments.benchmark.group import fastest
from experiments.benchmark.rows import CACHED, LOSS, OURS
from rrd_jax.terminal import tables


def summary(groups: list[dict[str, Any]]) -> str:
    """Returns a table that compares rrd_jax with the fastest PyTorch, by group and teacher.

    rrd_jax with a cached teacher is compared with the fastest PyTorch with a cached teacher, and
    with the fastest PyTorch that runs its teacher.

    Args:
      groups: `figures` of groups.
    """
    header = ["images", "batch", "precision", "cores", "teacher, rrd_jax / PyTorch"]
    header += ["speed ratio to fastest PyTorch", "min to max", "fastest variant"]
    header += ["peak MB", "time to ready", "images/s", "ms per step"]
    rows = []
    for group in groups:
        for case, peer_case in (
            (LOSS, LOSS),
            (LOSS + CACHED, LOSS),
            (LOSS + CACHED, LOSS + CACHED),
        ):
            if f"{OURS}: {case}" in group["seconds"]:
                rows.append(_comparison(group, case, peer_case))
    return tables.markdown(header, rows)


def _comparison(group: dict[str, Any], case: str, peer_case: str) -> list[Any]:
    """Returns a row that compares a case of rrd_jax with a case of the fastest peer."""
    peer = fastest(group, peer_case)
    keys = [f"{OURS}: {case}", *([f"{peer}: {peer_case}"] if peer else [])]
    ratios = _ratios(group, keys[-1], keys[0]) if peer else []
    teacher = " / ".join(
        "cached" if name.endswith(CACHED) else "runs" for name in (case, peer_case)
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


def reader_table(groups: list[dict[str, Any]]) -> str:
    """Returns a table of all readers and cases; a star marks the fastest PyTorch of each case."""
    header = ["images", "batch", "precision", "cores", "reader", "loss", "teacher"]
    header += ["rrd_jax / reader", "min to max", "peak MB", "time to ready", "images/s"]
    header += ["ms per step"]
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
    teacher = "-" if method == "ce" else "cached" if is_cached else "runs"
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
    """Returns the time of a reader's case divided by the time of a reference, by round."""
    rounds = zip(group["seconds"][key], group["seconds"][reference], strict=False)
    return [seconds / reference_seconds for seconds, reference_seconds in rounds]


def _spread(ratios: list[float]) -> str:
    return f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "-"


def _pair(group: dict[str, Any], keys: list[str], figure: Any, unit: str) -> str:
    """Returns the figures of keys, such as "12 / 15 s"; a dash stands for a missing figure."""
    figures = [figure(group, key) for key in keys]
    return f"{' / '.join(figures)} {unit if set(figures) != {'-'} else ''}".strip()


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
    """Returns remarks about failures of peers, and about peers with unusual launches of steps."""
    task = group["task"]
    label = f"{group['size']}, batch {task['batch_size']}, {group['precision']}"
    lines = [f"{label}: {name} failed: {reason}" for name, reason in group["failed"].items()]
    for name, ready in group["ready"].items():
        if ready.get("launched", "one by one") != "one by one":
            lines.append(f"{label}: {name} launches {ready['launched']}.")
    return lines
