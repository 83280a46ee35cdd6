"""The figure of a report: the student's costs as shares of its teacher's, and latencies."""

import pathlib
from collections.abc import Sequence
from typing import Any

from rrd_jax import errors
from rrd_jax.comparison.latency import Latency
from rrd_jax.comparison.measurements import Measurements
from rrd_jax.comparison.report_tables import Report
from rrd_jax.terminal import drawing, tables

# Colors of the palette of Okabe and Ito, which color-blind readers can distinguish.
_STUDENT, _TEACHER, _TEXT = "#0072B2", "#E69F00", "#555555"


def draw(report: Report, path: pathlib.Path) -> None:
    """Writes the figure; a failure leaves no partial file.

    Args:
      report: report of a student, with or without teachers.
      path: a .png or .svg file.

    Raises:
      UnavailableError: matplotlib is not installed.
      InputError: the file cannot be written.
      DiskError: the disk is full or cannot be written.
    """
    drawing.check(path.name)
    drawing.write(lambda: _figure(report), path)


def _figure(report: Report) -> Any:
    from matplotlib.figure import Figure

    networks = report.networks
    settings = sorted({(entry.cores, entry.batch) for entry in report.latencies})
    rows = max(1, (len(settings) + 1) // 2)
    figure = Figure((13, 2.2 + 2.6 * rows), dpi=140, layout="constrained")
    grid = figure.add_gridspec(rows, 3 if settings else 1)
    names = dict.fromkeys(_abbreviate(network.model, 60) for network in _pair(networks))
    details = "   ".join(_abbreviate(text, 80) for text in report.about.values() if text)
    figure.suptitle(f"{' compared with '.join(names)}\n{details}")
    _draw_shares(figure.add_subplot(grid[:, 0]), networks)
    for i, (cores, batch) in enumerate(settings):
        axes = figure.add_subplot(grid[i // 2, 1 + i % 2])
        entries = [e for e in report.latencies if (e.cores, e.batch) == (cores, batch)]
        _draw_latencies(axes, entries, [network.role for network in _pair(networks)])
        axes.set_title(f"latency in ms: batch {batch}, cores {cores}", loc="left", fontsize=10)
    return figure


def _pair(networks: Sequence[Measurements]) -> list[Measurements]:
    """Returns the student, and its teacher or the ensemble of its teachers if there is one."""
    return [networks[0], *networks[1:][-1:]]


def _abbreviate(text: str, limit: int) -> str:
    """Shortens a text to at most `limit` characters by removing its middle."""
    text, half = errors.printable(text), (limit - 1) // 2
    return text if len(text) <= limit else f"{text[:half]}\u2026{text[-half:]}"


def _draw_shares(axes: Any, networks: Sequence[Measurements]) -> None:
    """Draws a bar for each cost: the student's as a share of the teacher's."""
    student, teacher = networks[0], networks[-1]
    lines = [
        ("top-1 accuracy", student.top1, teacher.top1, "{:.2f} %".format),
        ("parameters", student.parameters, teacher.parameters, "{:,}".format),
        ("multiply-adds per image", student.macs, teacher.macs, "{:,}".format),
    ]
    for kind in ("float32", "int8"):
        sizes = student.bytes.get(kind), teacher.bytes.get(kind)
        lines.append((f"file, {kind}", *sizes, tables.format_bytes))
    lines = [line for line in lines if line[1] is not None]
    for row, (name, value, reference, to_text) in enumerate(lines):
        text = f"{name}: {to_text(value)}"
        if len(networks) > 1 and reference:
            text += f" of {to_text(reference)}, {100 * value / reference:.3g} %"
            axes.barh(row, 1, 0.3, color=_TEACHER, alpha=0.4)
            axes.barh(row, min(value / reference, 1), 0.3, color=_STUDENT)
        axes.text(0, row - 0.25, text, fontsize=9, color=_TEXT)
    axes.set_ylim(len(lines) - 0.5, -0.6)
    axes.set_axis_off()
    if student.agreement is not None:
        agreement = f"agreement with the teacher: {student.agreement:.2f} % of the images"
        axes.set_title(agreement, loc="left", fontsize=10)


def _draw_latencies(axes: Any, entries: Sequence[Latency], roles: Sequence[str]) -> None:
    """Draws the median for each runtime and network, with a line to the 90th percentile."""
    runtimes = list(dict.fromkeys(entry.runtime for entry in entries))
    by_key = {(entry.network, entry.runtime): entry for entry in entries}
    for i, (role, color) in enumerate(zip(roles, (_STUDENT, _TEACHER), strict=False)):
        rows = [row for row, runtime in enumerate(runtimes) if (role, runtime) in by_key]
        measured = [by_key[role, runtimes[row]] for row in rows]
        positions = [row + 0.4 * i - 0.2 * (len(roles) - 1) for row in rows]
        upper = [entry.p90 - entry.median for entry in measured]
        medians = [entry.median for entry in measured]
        bars = axes.barh(positions, medians, 0.36, xerr=([0] * len(upper), upper), color=color)
        bars.set_label(role)
        axes.bar_label(bars, [f" {median:.3g}" for median in medians], fontsize=8, color=_TEXT)
    axes.set_yticks(range(len(runtimes)), runtimes, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8)
