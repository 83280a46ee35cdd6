"""Slopes, tables and the picture of how cost grows, from the curves' figures."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rrd_jax.run_folder import report


class Kind(NamedTuple):
    """What a curve is of.

    Attributes:
      axis: what grows.
      what: is timed.
      straight: whether cost is fitted by a line, start + slope * x, besides the exponent.
    """

    axis: str
    what: str
    straight: bool = False


KINDS = {
    "batch": Kind("images a step", "a step"),
    "memory": Kind("rows of the memory", "RRD's loss and gradient, 32 images"),
    "large_batch_memory": Kind("rows of the memory", "RRD's loss and gradient, 256 images"),
    "student": Kind("multiply-adds of the student", "a step, teacher remembered"),
    "devices": Kind("devices that share the cores", "a step of 64 images"),
    "epochs": Kind("epochs", "a command", straight=True),
}


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent a of y = c x^a, by least squares of the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """(start, slope) of y = start + slope x, by least squares."""
    by_x, start = np.polyfit(x, y, 1)
    return float(start), float(by_x)


def points(curve: Mapping[str, Any]) -> tuple[list[int], list[float]]:
    """What grows, in order, and the median seconds of each."""
    medians = {int(at): statistics.median(s) for at, s in curve["seconds"].items()}
    return sorted(medians), [medians[at] for at in sorted(medians)]


def summary(curves: Mapping[str, Any]) -> str:
    """A row for each curve: its range, and its exponent as a whole and in its upper half."""
    header = ("what is timed", "over", "from", "to", "costs times", "exponent", "in the upper half")
    rows = []
    for name, curve in curves.items():
        kind, (x, y) = KINDS[name], points(curve)
        upper = slice((len(x) - 1) // 2, None)
        rows.append(
            (
                kind.what,
                kind.axis,
                f"{x[0]:,}",
                f"{x[-1]:,}",
                f"{y[-1] / y[0]:.2f}",
                f"{slope(x, y):.2f}",
                f"{slope(x[upper], y[upper]):.2f}",
            )
        )
    return report.table(header, rows)


def details(name: str, curve: Mapping[str, Any]) -> str:
    """A row for each point: its cost, that for a unit, and the spread over rounds."""
    x, y = points(curve)
    temporaries, names = curve.get("temporaries", {}), curve.get("names", {})
    header = [KINDS[name].axis, "costs times", "each of them, times", "rounds"]
    header += ["temporaries, MB"] if temporaries else []
    rows = []
    for at, seconds in zip(x, y, strict=True):
        rounds = curve["seconds"][str(at)]
        label = f"{at:,}" + (f" ({names[str(at)]})" if names else "")
        row = [label, f"{seconds / y[0]:.2f}", f"{seconds / y[0] * x[0] / at:.2f}"]
        row.append(f"{min(rounds) / seconds:.2f} to {max(rounds) / seconds:.2f}")
        row += [f"{temporaries[str(at)] / 1e6:.1f}"] if temporaries else []
        rows.append(row)
    return report.table(header, rows)


def remarks(curves: Mapping[str, Any]) -> list[str]:
    """What the straight lines say: how many epochs a start costs, and how straight they are."""
    lines = []
    for name, curve in curves.items():
        if not KINDS[name].straight:
            continue
        x, y = points(curve)
        start, by_x = line(x, y)
        off = max(
            abs(start + by_x * at - seconds) / seconds for at, seconds in zip(x, y, strict=True)
        )
        text = f"{KINDS[name].what} costs its start and so much for each of its {KINDS[name].axis}:"
        text += f" the start is worth {start / by_x:.1f} of them"
        if "cold" in curve:
            text += f", {(curve['cold'] - by_x * x[0]) / by_x:.1f} where nothing is compiled yet"
        lines.append(f"{text}; the line is off by {100 * off:.0f} % at most.")
    return lines


def picture(curves: Mapping[str, Any]) -> Any:
    """A matplotlib figure, each curve in its own axes; the dotted line is in proportion."""
    from matplotlib.figure import Figure

    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(3.0 * columns, 2.5 * rows), layout="constrained", dpi=110)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in axes[len(curves) :]:
        unused.remove()
    for axis, (name, curve) in zip(axes, curves.items(), strict=False):
        _draw(axis, name, curve)
    return figure


def _draw(axis: Any, name: str, curve: Mapping[str, Any]) -> None:
    kind, (x, y) = KINDS[name], points(curve)
    relative = [seconds / y[0] for seconds in y]
    axis.plot(x, relative, "o-", color="#0072b2", markersize=3.5, linewidth=1.2)
    for at, middle, shown in zip(x, y, relative, strict=True):
        rounds = [seconds / middle * shown for seconds in curve["seconds"][str(at)]]
        axis.plot([at, at], [min(rounds), max(rounds)], color="#0072b2", linewidth=0.8)
    axis.plot(x, [at / x[0] for at in x], ":", color="#6b7078", linewidth=1)
    axis.set_xscale("log")
    axis.set_yscale("log")
    if x[-1] / x[0] < 1000:  # few enough to name each
        axis.set_xticks(
            x, [f"{at:,}" if at < 1e5 else f"{at / 1e6:.0f} M" for at in x], minor=False
        )
        axis.set_xticks([], minor=True)
    axis.set_xlabel(kind.axis, fontsize=8)
    axis.set_ylabel("cost, times the first", fontsize=8)
    axis.set_title(f"{kind.what}\nexponent {slope(x, y):.2f}", fontsize=8, loc="left")
    axis.tick_params(labelsize=7)
    axis.grid(linewidth=0.3, alpha=0.5)
