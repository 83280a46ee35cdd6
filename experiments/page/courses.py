"""Charts of what goes on by epoch, and of curves that are computed."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.page import look, marks
from experiments.page.marks import Values
from experiments.page.results import label
from experiments.study.records import Entry

_POINTS = 80  # epochs of a curve that are drawn at most


def learning_curves(
    entries: Sequence[tuple[str, Entry]], column: str, styles: Mapping[str, look.Style]
) -> dict[str, Any]:
    """A column by epoch: a thin line a run, and the mean of each level.

    Args:
      entries: level and run.
      column: of metrics.jsonl.
      styles: of the levels.
    """
    values = run_values(entries, column)
    return epochs(values, label(column), styles, late_domain(values, column))


def epochs(
    values: Values,
    title: str,
    styles: Mapping[str, look.Style],
    domain: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Figures by epoch: a thin line a run, and the mean of each level where it has several.

    Args:
      values: as `run_values` has them.
      title: of the axis.
      styles: of the levels.
      domain: the ends of the axis; None for those of the figures.
    """
    import altair as alt

    scale = alt.Scale(domain=domain, zero=False) if domain else alt.Scale(zero=False)
    base = (
        marks.chart_of()
        .transform_flatten(["epoch", "value"])
        .encode(
            x=alt.X(
                "epoch:Q",
                title="epoch",
                scale=alt.Scale(nice=False),
                axis=alt.Axis(grid=False, labelOverlap="greedy", labelSeparation=8),
            ),
            color=marks.colour(styles),
        )
    )
    run = alt.Tooltip("run:N")
    number = alt.Tooltip("value:Q", title=title, format=".4~g")
    thin = base.mark_line(strokeWidth=1, clip=True).encode(
        y=alt.Y("value:Q", title=title, scale=scale),
        detail="run:N",
        tooltip=[run, alt.Tooltip("epoch:Q"), number],
        opacity=marks.picked(0.4),
    )
    mean = base.mark_line(strokeWidth=2.2, clip=True).encode(
        y=alt.Y("mean(value):Q", title=title, scale=scale),
        strokeDash=marks.dash(styles),
        opacity=marks.picked(1),
        tooltip=["level:N", "epoch:Q", alt.Tooltip("mean(value):Q", format=".4~g")],
    )
    chart = alt.layer(thin.add_params(marks.pick()), mean)
    return marks.spec(chart, values, height=260)


def run_values(entries: Sequence[tuple[str, Entry]], column: str) -> Values:
    """A row a run, with its epochs and figures as lists."""
    values: Values = []
    for level, entry in entries:
        rows = [row for row in thinned(entry.rows) if is_number(row.get(column))]
        if rows:
            values.append(
                {
                    "level": level,
                    "run": entry.label,
                    "seed": entry.seed,
                    "epoch": [row["epoch"] for row in rows],
                    "value": [row[column] for row in rows],
                }
            )
    return values


def thinned(rows: Sequence[Mapping[str, Any]], most: int = _POINTS) -> list[Mapping[str, Any]]:
    """So many rows at most, at even distances; the last one is among them."""
    stride = max(1, math.ceil(len(rows) / most))
    return list(rows[::-1][::stride][::-1])


def late_domain(values: Values, column: str) -> list[float] | None:
    """The ends of an axis on which the later half of accuracies can be told apart."""
    late = [x for entry in values for x in entry["value"][len(entry["value"]) // 2 :]]
    if not late or ("top" not in column and "agreement" not in column):
        return None
    low, high = min(late), max(late)
    return [math.floor(low), min(100, math.ceil(high + 0.02 * (high - low)))]


def is_number(found: Any) -> bool:
    """Whether it is a number that can be drawn."""
    return isinstance(found, int | float) and math.isfinite(found)


def calculation(
    curves: Mapping[str, Any], styles: Mapping[str, look.Style]
) -> dict[str, Any] | None:
    """A theory's curves; points where a series says so; None where nothing can be drawn."""
    import altair as alt

    series = curves["series"]
    values = [
        {
            "level": entry["name"],
            "kind": "points" if "point" in str(entry.get("kind")) else "line",
            curves["x_label"]: [x for x, _ in points],
            curves["y_label"]: [y for _, y in points],
        }
        for entry in series
        if (points := _drawable(entry, curves))
    ]
    axes = {}
    for axis, kind in (("x", alt.X), ("y", alt.Y)):
        name = curves[f"{axis}_label"]
        type_ = "log" if curves.get(f"log_{axis}") else "linear"
        axes[axis] = kind(
            f"{axis}:Q",
            title=name,
            scale=alt.Scale(
                type=type_, nice=axis == "y", **({} if type_ == "log" else {"zero": False})
            ),
            axis=alt.Axis(grid=axis == "y", tickCount=6, format="~g"),
        )
    base = (
        marks.chart_of()
        .transform_flatten([curves["x_label"], curves["y_label"]], ["x", "y"])
        .encode(
            **axes,
            color=marks.colour(styles),
            opacity=marks.picked(1),
            tooltip=[
                "level:N",
                alt.Tooltip("x:Q", title=curves["x_label"], format=".4~g"),
                alt.Tooltip("y:Q", title=curves["y_label"], format=".4~g"),
            ],
        )
    )
    kinds = {entry["kind"] for entry in values}
    layers = []
    if "line" in kinds:
        lines = base.transform_filter("datum.kind == 'line'").mark_line(strokeWidth=2)
        layers.append(lines.encode(strokeDash=marks.dash(styles)))
    if "points" in kinds:
        points = base.transform_filter("datum.kind == 'points'").mark_point(filled=True, size=55)
        layers.append(points.encode(shape=marks.shape(styles)))
    if not layers:
        return None
    chart = alt.layer(layers[0].add_params(marks.pick()), *layers[1:])
    return marks.spec(chart, values, height=260)


def _drawable(entry: Mapping[str, Any], curves: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Points that have a place on the axes."""
    pairs = zip(entry["x"], entry["y"], strict=True)
    return [
        (x, y)
        for x, y in pairs
        if is_number(x)
        and is_number(y)
        and (x > 0 or not curves.get("log_x"))
        and (y > 0 or not curves.get("log_y"))
    ]
