"""The main figures of a page, drawn by matplotlib for paper."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.page import charts, courses, look, results, single, study
from experiments.page.found import signed
from experiments.page.results import Block, Results

_WIDTH = 5.5  # inches, of a column of text
_LINES = 12  # levels whose lines can still be told apart without a click


def of_grid(of: Results) -> Iterator[tuple[str, Any]]:
    """Names of files, and functions that draw them."""
    name, shown = study.slug(of.grid.name), of.grid.shown
    places = results.valued(of.grid)
    if shown == "map" and len(places) > 1:
        yield f"{name}-map", lambda: factor_map(of)
    elif shown == "curve" and places:
        yield f"{name}-curve", lambda: factor_curve(of)
    else:
        yield f"{name}-comparison", lambda: comparison(of)
    if of.ranking and of.ranking.p is not None:
        yield f"{name}-critical-difference", lambda: critical_difference(of.ranking)
    groups, styles = study.curve_groups(of)
    if groups:
        yield f"{name}-epochs", lambda: learning_curves(groups, of.grid.metric, styles)
    yield from _of_measures(study.settings_of(of)[0])


def of_run(run: "single.Run") -> Iterator[tuple[str, Any]]:
    """Likewise of a run."""
    from experiments.page import measured

    if run.entry.rows:
        styles = look.styles(["student", "teacher", "student alone"])
        pairs = [("student", run.entry), *run.others.items()]
        yield "run-epochs", lambda: learning_curves({"": pairs}, "test/top1", styles)
    yield from _of_measures(measured.Runs("run", {"student": [run.entry]}, ["student"], ""))


def _of_measures(runs: Any) -> Iterator[tuple[str, Any]]:
    alignment = {
        level: found[0]
        for level, found in runs.values("alignment").items()
        if "classes" in found[0]
    }
    if alignment:
        level = runs.chosen(alignment)[0]
        yield f"{runs.name}-correlations", lambda: correlations(alignment[level], level)
    planes = runs.values("tsne")
    if planes:
        name = runs.chosen(planes)[0]
        yield f"{runs.name}-tsne", lambda: planes_of(planes[name][0], name)


def axes_of(count: int, height: float, columns: int = 2, **options: Any) -> tuple[Any, list[Any]]:
    """A figure with so many axes, and these.

    Args:
      count: of axes.
      height: of one, in inches.
      columns: at most.
      **options: of matplotlib's subplots.
    """
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(_WIDTH, height * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel().tolist()
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def comparison(of: Results) -> Any:
    """Means with 95 % intervals, seeds and published figures, as `charts.comparison`."""
    blocks = [block for block in of.blocks if block.ordered()][: study.BLOCKS]
    styles = look.styles(of.levels, of.grid.baseline)
    most = max(len(block.ordered()) for block in blocks)
    figure, axes = axes_of(len(blocks), 0.17 * most + 0.55)
    for axis, block in zip(axes, blocks, strict=True):
        _compare(axis, block, styles)
        axis.set_xlabel(results.label(of.grid.metric))
        axis.set_title(block.name, loc="left")
    if len(blocks) == 1 and blocks[0].differences:
        _write_differences(axes[0], blocks[0], of.grid.baseline)
    return figure


def _write_differences(axis: Any, block: Block, baseline: str) -> None:
    """The differences to the baseline, with verdicts, at the right of their levels."""
    options = {"transform": axis.get_yaxis_transform(), "va": "center", "fontsize": 7}
    axis.text(
        1.02,
        -1.1,
        f"difference to {baseline} (95 % interval), verdict (Holm)",
        **options,
        color="#555",
    )
    for place, row in enumerate(block.ordered()):
        difference = block.differences.get(row.name)
        if difference is None or difference.mean is None:
            words, colour = "baseline" if row.name == baseline else "no common seed", "#555"
        else:
            words = signed(difference.mean)
            if difference.low is not None:
                words += f" ({signed(difference.low)} to {signed(difference.high)})"
            words += f", {difference.verdict}"
            colour = {"better": "#00724f", "worse": "#b04300"}.get(difference.verdict, "#333")
        axis.text(1.02, place, words, **options, color=colour)


def _compare(axis: Any, block: Block, styles: Mapping[str, look.Style]) -> None:
    rows = block.ordered()
    far, domain = charts.outliers(block), charts.comparison_domain(block)
    for place, row in enumerate(rows):
        style = styles[row.name]
        if row.name in far:
            axis.text(domain[0], place, f" ← {row.last.mean:.2f}", va="center", fontsize=7)
            continue
        values = list(row.values.values())
        axis.plot(values, [place] * len(values), "|", color=style.colour, alpha=0.6, markersize=6)
        if row.last.low is not None:
            axis.plot([row.last.low, row.last.high], [place, place], color=style.colour)
        axis.plot(row.last.mean, place, style.marker, color=style.colour)
        if row.published is not None:
            axis.plot(row.published, place, "D", color="black", markerfacecolor="none")
    axis.set_yticks(range(len(rows)), [row.name for row in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.set_xlim(*domain)
    axis.grid(axis="x", linewidth=0.4, alpha=0.5)


def critical_difference(ranking: Any) -> Any:
    """Demsar's diagram: mean ranks on an axis; bars join levels that are not told apart."""
    names = list(ranking.mean_ranks)
    groups = [group for group in ranking.groups if len(group) > 1]
    half = math.ceil(len(names) / 2)
    depth = 1 + 0.28 * len(groups)
    figure, (axis,) = axes_of(1, 0.19 * (half + len(groups)) + 0.5)
    axis.set_xlim(len(names) + 0.05, 0.95)
    axis.set_ylim(depth + 0.75 * half, -1.1)
    axis.xaxis.tick_top()
    axis.set_xticks(range(1, len(names) + 1))
    axis.spines[["left", "right", "bottom"]].set_visible(False)
    axis.spines["top"].set_visible(True)
    axis.spines["top"].set_position(("data", 0))
    axis.set_yticks([])
    for i, name in enumerate(names):
        rank, right = ranking.mean_ranks[name], i < half
        row = depth + 0.75 * (i if right else len(names) - 1 - i) + 0.3
        end = 0.95 if right else len(names) + 0.05
        axis.plot([rank, rank, end], [0, row, row], color="black", linewidth=0.7, clip_on=False)
        axis.annotate(
            f"{name} ({rank:.2f})",
            (end, row),
            xytext=(3 if right else -3, 0),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            annotation_clip=False,
        )
    for i, group in enumerate(groups):
        ranks = [ranking.mean_ranks[name] for name in group]
        height = 0.45 + 0.28 * i
        axis.plot(
            [min(ranks) - 0.03, max(ranks) + 0.03], [height] * 2, color="black", linewidth=2.5
        )
    if ranking.critical_difference:
        start = 1.0
        axis.plot(
            [start, start + ranking.critical_difference],
            [-0.75] * 2,
            "|-",
            color="black",
            clip_on=False,
        )
        axis.annotate(
            f"critical difference {ranking.critical_difference:.2f}",
            (start + ranking.critical_difference / 2, -0.75),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            annotation_clip=False,
        )
    return figure


def factor_map(of: Results) -> Any:
    """The map of two factors, with the mean in each cell."""
    down, across = results.valued(of.grid)[:2]
    cells = charts.map_values(of)
    figure, axes = axes_of(len(cells), 0.3 * len(down["levels"]) + 0.5)
    for axis, (name, values) in zip(axes, cells.items(), strict=True):
        rows, columns = ([x["name"] for x in factor["levels"]] for factor in (down, across))
        grid = np.full((len(rows), len(columns)), np.nan)
        for entry in values:
            if entry["mean"] is not None:
                grid[rows.index(entry["down"]), columns.index(entry["across"])] = entry["mean"]
        image = axis.pcolormesh(grid, cmap="viridis")
        low, high = np.nanmin(grid), np.nanmax(grid)
        for (i, j), mean in np.ndenumerate(grid):
            if np.isfinite(mean):
                dark = mean > low + 0.6 * (high - low)
                colour = "black" if dark else "white"
                axis.text(j + 0.5, i + 0.5, f"{mean:.2f}", ha="center", va="center", color=colour)
        axis.set_xticks(np.arange(len(columns)) + 0.5, columns)
        axis.set_yticks(np.arange(len(rows)) + 0.5, rows)
        axis.set(xlabel=across["label"], ylabel=down["label"])
        axis.set_title(name, loc="left")
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        figure.colorbar(image, ax=axis, label=results.label(of.grid.metric))
    return figure


def factor_curve(of: Results) -> Any:
    """Means over a factor, with 95 % intervals."""
    factor = results.valued(of.grid)[0]
    values = charts.curve_values(of)
    levels = list(dict.fromkeys(entry["level"] for entry in values))
    figure, (axis,) = axes_of(1, 2.4)
    for level, style in look.styles(levels, of.grid.baseline).items():
        points = sorted((e for e in values if e["level"] == level), key=lambda e: e["x"])
        x, mean = [e["x"] for e in points], [e["mean"] for e in points]
        axis.plot(x, mean, marker=style.marker, label=level, **_line(style))
        bounds = [(e["x"], e["low"], e["high"]) for e in points if e["low"] is not None]
        if bounds:
            axis.fill_between(
                *zip(*bounds, strict=True), color=style.colour, alpha=0.13, linewidth=0
            )
    if factor["log"]:
        axis.set_xscale("log")
    places = [level["value"] for level in factor["levels"]]
    axis.set_xticks(places, [level["name"] for level in factor["levels"]])
    axis.minorticks_off()
    axis.set(xlabel=factor["label"], ylabel=results.label(of.grid.metric))
    axis.grid(axis="y", linewidth=0.4, alpha=0.5)
    if len(levels) > 1:
        axis.legend()
    return figure


def learning_curves(
    groups: Mapping[str, Sequence[tuple[str, Any]]], column: str, styles: Mapping[str, look.Style]
) -> Any:
    """All runs by epoch, a thin line each, and the means of levels: of many, of the best."""
    count, styles = len(styles), _best(groups, column, styles)
    figure, axes = axes_of(len(groups), 2.0 if len(groups) > 1 else 2.6)
    for axis, (name, pairs) in zip(axes, groups.items(), strict=True):
        values = courses.run_values(pairs, column)
        for level, style in styles.items():
            runs = [row for row in values if row["level"] == level]
            for row in runs:
                axis.plot(row["epoch"], row["value"], color=style.colour, alpha=0.35, linewidth=0.6)
            if runs:
                epoch, mean = _mean(runs)
                axis.plot(epoch, mean, label=level, **_line(style))
        if domain := courses.late_domain(values, column):
            axis.set_ylim(*domain)
        axis.set(xlabel="epoch", ylabel=results.label(column))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_title(name, loc="left")
    handles = {
        label: handle
        for axis in axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    columns = min(6, len(handles))
    title = f"the highest of {count}, in the order of the study" if len(styles) < count else None
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper left",
        ncols=columns,
        title=title,
        title_fontsize=7,
        alignment="left",
    )
    return figure


def _best(
    groups: Mapping[str, Sequence[tuple[str, Any]]], column: str, styles: Mapping[str, look.Style]
) -> dict[str, look.Style]:
    """The styles of so many levels as can be told apart: the baseline, and the highest at last."""
    if len(styles) <= _LINES:
        return dict(styles)
    lasts: dict[str, list[float]] = {}
    for pairs in groups.values():
        for row in courses.run_values(pairs, column):
            lasts.setdefault(row["level"], []).append(row["value"][-1])
    grey = [level for level, style in styles.items() if style.colour == look.BASELINE]
    order = sorted(lasts, key=lambda level: -float(np.mean(lasts[level])))
    kept = [*grey, *(level for level in order if level not in grey)][:_LINES]
    return look.styles([level for level in styles if level in kept], *grey)


def _mean(runs: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[float]]:
    by_epoch: dict[int, list[float]] = {}
    for row in runs:
        for epoch, value in zip(row["epoch"], row["value"], strict=True):
            by_epoch.setdefault(epoch, []).append(value)
    return sorted(by_epoch), [float(np.mean(by_epoch[epoch])) for epoch in sorted(by_epoch)]


def _line(style: look.Style) -> dict[str, Any]:
    dash = (0, style.dash) if style.dash else "-"
    return {"color": style.colour, "linestyle": dash}


def correlations(values: Mapping[str, Any], level: str) -> Any:
    """Correlations of logits: teacher, student, and their difference."""
    figure, axes = axes_of(3, 1.9, columns=3)
    kinds = {
        "teacher": ("teacher_correlation", 1.0),
        level or "student": ("student_correlation", 1.0),
        "difference": ("correlation_difference", 0.5),
    }
    for axis, (name, (key, end)) in zip(axes, kinds.items(), strict=True):
        image = axis.imshow(values[key], cmap="PuOr", vmin=-end, vmax=end, interpolation="none")
        axis.set_title(name, loc="left")
        axis.set(xlabel="class", ylabel="class")
        axis.spines[:].set_visible(False)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.yaxis.get_major_locator().set_params(integer=True)
        figure.colorbar(image, ax=axis, shrink=0.7)
    return figure


def planes_of(values: Mapping[str, Any], level: str) -> Any:
    """t-SNE of teacher and student."""
    roles = {"teacher": "teacher", "student": level or "student"}
    roles = {role: title for role, title in roles.items() if role in values}
    figure, axes = axes_of(len(roles), 2.4)
    names = [str(name) for name in values["class_names"]]
    for axis, (role, title) in zip(axes, roles.items(), strict=True):
        for label, (name, style) in enumerate(look.styles(names).items()):
            points = values[role][values["labels"] == label]
            axis.plot(
                *points.T, style.marker, color=style.colour, markersize=2.5, label=name, alpha=0.8
            )
        axis.set_title(title, loc="left")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(True)
    if len(names) <= 24:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=10)
    return figure


def calculation(curves: Mapping[str, Any]) -> Any:
    """Curves of a theory: lines of the code, points of formulas, dashes of bounds."""
    figure, (axis,) = axes_of(1, 2.6)
    styles, labelled = courses.calculation_styles(curves), set()
    for series in curves["series"]:
        points, style = courses.drawable(series, curves), styles[series["name"]]
        if not points:
            continue
        looks = {
            "formula": {"marker": style.marker, "linestyle": "none", "markersize": 2.5},
            "bound": {"linestyle": "--", "linewidth": 0.9},
        }
        label = series["name"] if series["name"] not in labelled else None
        labelled.add(series["name"])
        options = looks.get(series["kind"], {})
        axis.plot(*zip(*points, strict=True), color=style.colour, label=label, **options)
    axis.set_xscale("log" if curves["log_x"] else "linear")
    axis.set_yscale("log" if curves["log_y"] else "linear")
    axis.set(xlabel=curves["x_label"], ylabel=curves["y_label"])
    if len(styles) > 1:
        axis.legend()
    return figure
