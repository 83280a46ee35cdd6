"""The picture of a report: what share of its teacher a student is, and how much faster."""

import pathlib
from typing import Any

from rrd_jax import errors
from rrd_jax.comparison.figures import Figures
from rrd_jax.comparison.latency import Latency
from rrd_jax.comparison.shown import Report
from rrd_jax.terminal import drawing, tables

# Of Okabe and Ito: told apart by any eyes, and in grey.
_STUDENT, _TEACHER = "#0072B2", "#E69F00"
_REST, _INK, _FAINT = "#E3E3E3", "#222222", "#777777"


def check() -> None:
    """Raises an UnavailableError where matplotlib is not installed."""
    drawing.check("there is no picture: it")


def draw(found: Report, path: pathlib.Path) -> None:
    """Writes the picture, whole or not at all.

    Args:
      found: the report.
      path: of a .png or .svg file.

    Raises:
      UnavailableError: matplotlib is not installed.
      DiskError: the disk does not take it.
    """
    check()
    drawing.write(lambda: _drawn(found), path)


def _drawn(found: Report) -> Any:
    """The picture as matplotlib's figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    networks = found.networks
    settings = sorted({(entry.cores, entry.batch) for entry in found.latencies})
    runtimes = len({entry.runtime for entry in found.latencies})
    rows = max(1, (len(settings) + 1) // 2)
    height = max(5.4, 2.2 + rows * (1.0 + 0.4 * runtimes))
    figure = Figure((13, height), dpi=140)
    FigureCanvasAgg(figure)
    figure.subplots_adjust(0.03, 0.75 / height, 0.985, 1 - 1.75 / height, 0.32, 0.45)
    grid = figure.add_gridspec(rows, 3, width_ratios=(1.15, 1, 1))
    _head(figure, found, height)
    _costs(figure.add_subplot(grid[:, 0]), networks)
    for i, (cores, batch) in enumerate(settings):
        axes = figure.add_subplot(grid[i % rows, 1 + i // rows])
        entries = [e for e in found.latencies if (e.cores, e.batch) == (cores, batch)]
        title = f"{cores} core{'s' * (cores > 1)}, {batch} image{'s' * (batch > 1)} at once"
        _latencies(axes, entries, networks, title)
    return figure


def _head(figure: Any, found: Report, height: float) -> None:
    """What the picture is of, and what its marks mean."""
    networks = found.networks
    title = _short(networks[0].model, 28)
    if len(networks) > 1:
        title += f" beside its teacher{'s' * (len(networks) > 2)} "
        title += _short(networks[-1].model, 76 - len(title))
    below = "   ".join(_short(text, 80) for text in found.about.values() if text)
    figure.text(0.03, 1 - 0.5 / height, title, fontsize=17, weight="bold", color=_INK)
    figure.text(0.03, 1 - 0.8 / height, below, fontsize=10, color=_FAINT)
    if not found.latencies:
        return
    at = {"y": 1 - 1.2 / height, "fontsize": 11, "color": _INK}
    figure.text(0.405, s="Latency of a call, in milliseconds: median, and a line to p90", **at)
    places = zip(_shown(networks), (0.80, 0.88), strict=False)
    for (role, colour, marker), x in places:
        figure.text(x, s={"o": "\u25cf", "D": "\u25c6"}[marker], **at | {"color": colour})
        figure.text(x + 0.014, s=role, **at)


def _short(text: str, most: int) -> str:
    """Text that fits into so many characters; of a long one the middle is left out."""
    text = errors.printable(text)
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}\u2026{text[-half:]}"


def _shown(networks: list[Figures]) -> list[tuple[str, str, str]]:
    """Role, colour and marker of the student, and of its teacher or all of them."""
    shown = [(networks[0].role, _STUDENT, "o")]
    return shown + [(networks[-1].role, _TEACHER, "D")] * (len(networks) > 1)


def _costs(axes: Any, networks: list[Figures]) -> None:
    """A bar for each figure: the student's share of the teacher's."""
    student, teacher = networks[0], networks[-1]
    lines = [
        ("top-1 accuracy", student.top1, teacher.top1, "{:.2f} %".format),
        ("parameters", student.parameters, teacher.parameters, "{:,}".format),
        ("multiply-adds an image", student.macs, teacher.macs, "{:,}".format),
        (
            "file, float32",
            *(n.bytes.get("float32") for n in (student, teacher)),
            tables.bytes_shown,
        ),
        ("file, int8", *(n.bytes.get("int8") for n in (student, teacher)), tables.bytes_shown),
    ]
    lines = [line for line in lines if line[1] is not None]
    for i, (name, own, whole, shown) in enumerate(lines):
        compares = len(networks) > 1 and whole
        share = own / whole if compares else 0.0
        axes.text(0, i - 0.32, name, fontsize=10.5, color=_INK, va="center")
        if not compares:
            axes.text(
                1,
                i - 0.32,
                shown(own),
                fontsize=10.5,
                color=_STUDENT,
                va="center",
                ha="right",
                weight="bold",
            )
            axes.plot([0, 1], [i, i], color=_REST, linewidth=1)
            continue
        axes.barh(i, 1, 0.24, color=_TEACHER, alpha=0.45, linewidth=0)
        axes.barh(i, min(share, 1), 0.24, color=_STUDENT, linewidth=0)
        axes.text(
            1,
            i - 0.32,
            f"{100 * share:.3g} %",
            fontsize=10.5,
            color=_STUDENT,
            va="center",
            ha="right",
            weight="bold",
        )
        axes.text(
            0, i + 0.28, f"{shown(own)} of {shown(whole)}", fontsize=8.5, color=_FAINT, va="center"
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(len(lines) - 0.4, -0.75)
    axes.axis("off")
    title = "The student, as a share of its teacher" if len(networks) > 1 else "The network"
    if len(networks) > 1 and student.agreement is not None:
        title += f"\nsame class for {student.agreement:.2f} % of the images"
    axes.set_title(title, fontsize=11, color=_INK, loc="left", pad=4)


def _latencies(axes: Any, entries: list[Latency], networks: list[Figures], title: str) -> None:
    """A row for each runtime: the student's latency and the teacher's, and a line between them."""
    runtimes = [*reversed(dict.fromkeys(entry.runtime for entry in entries))]
    shown = _shown(networks)
    place = {(e.network, e.runtime): e for e in entries}
    for row, runtime in enumerate(runtimes):
        pair = [place.get((role, runtime)) for role, _, _ in shown]
        if all(pair) and len(pair) == 2:
            axes.plot([e.median for e in pair], [row, row], color=_REST, linewidth=3, zorder=1)
            middle = (pair[0].median * pair[1].median) ** 0.5
            faster = _faster(pair[1].median / pair[0].median)
            axes.annotate(
                faster,
                (middle, row),
                (0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=8,
                color=_FAINT,
            )
        for entry, (_, colour, marker) in zip(pair, shown, strict=True):
            if entry:
                axes.plot(
                    [entry.median, entry.p90], [row, row], color=colour, linewidth=1.3, zorder=2
                )
                axes.plot(
                    entry.median,
                    row,
                    marker,
                    color=colour,
                    markersize=7,
                    markeredgecolor="white",
                    zorder=3,
                )
    axes.set_xscale("log")
    values = [value for e in entries for value in (e.median, e.p90)]
    axes.set_xlim(min(values) / 1.6, max(values) * 1.6)
    axes.set_ylim(-0.6, len(runtimes) - 0.25)
    axes.set_yticks(range(len(runtimes)), runtimes)
    axes.set_title(title, fontsize=10.5, color=_INK, loc="left", pad=6)
    _ticks(axes)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_REST)
    axes.tick_params(axis="both", labelsize=8.5, length=0, colors=_INK, which="both")
    axes.grid(axis="x", color=_REST, linewidth=0.6)
    axes.set_axisbelow(True)


def _faster(factor: float) -> str:
    return f"{factor:.1f}x faster" if factor >= 1 else f"{1 / factor:.1f}x slower"


def _ticks(axes: Any) -> None:
    """Numbers as people write them, at 1, 2 and 5 of each power."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
