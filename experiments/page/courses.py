"""Charts of what goes on by epoch, and of curves that are computed."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.page import look, marks, results
from experiments.page.marks import Values
from experiments.page.results import label
from experiments.study.records import Entry

_BOUND = (5, 4)  # dashes of what lines cannot cross
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
    """The ends of an axis on which the later half of most runs can be told apart.

    The first epochs, and levels far below the others, lie beyond its edge.

    Args:
      values: as `run_values` has them.
      column: of metrics.jsonl, or its title.

    Returns:
      None where the axis shows everything.
    """
    if not values:
        return None
    late = [x for row in values for x in row["value"][len(row["value"]) // 2 :]]
    if "loss" in column:
        low, high = min(late), float(np.percentile(late, 95))
        return [low - 0.05 * (high - low), high + 0.3 * (high - low)] if high > low else None
    if "top" not in column and "agreement" not in column:
        return None
    edge = results.far_below([row["value"][-1] for row in values])
    near = [row for row in values if row["value"][-1] >= edge]
    late = [x for row in near for x in row["value"][len(row["value"]) // 2 :]]
    low, high = max(min(late), edge), max(late)
    bottom = min(99, math.floor(low))
    return [bottom, min(100, max(bottom + 1, math.ceil(high + 0.02 * (high - low))))]


def is_number(found: Any) -> bool:
    """Whether it is a number that can be drawn."""
    return isinstance(found, int | float) and math.isfinite(found)


def calculation_styles(curves: Mapping[str, Any]) -> dict[str, look.Style]:
    """Of a theory's curves by name; a line of the code and the one of its formula share theirs."""
    styles = look.styles(dict.fromkeys(series["name"] for series in curves["series"]))
    for series in curves["series"]:
        if series["kind"] == "bound":
            name = series["name"]
            styles[name] = dataclasses.replace(styles[name], dash=_BOUND)
    return styles


def calculation(curves: Mapping[str, Any]) -> dict[str, Any] | None:
    """A theory's curves: lines of the code, points of formulas, dashes of bounds.

    Args:
      curves: JSON of `experiments.theory.Curves`.

    Returns:
      None where nothing can be drawn.
    """
    import altair as alt

    styles = calculation_styles(curves)
    values = [
        {
            "level": series["name"],
            "kind": series["kind"],
            "x": [x for x, _ in points],
            "y": [y for _, y in points],
        }
        for series in curves["series"]
        if (points := drawable(series, curves))
    ]
    base = (
        marks.chart_of()
        .transform_flatten(["x", "y"])
        .encode(
            x=_axis(alt.X, "x", curves),
            y=_axis(alt.Y, "y", curves),
            color=marks.colour(styles),
            opacity=marks.picked(1),
            tooltip=[
                alt.Tooltip("level:N", title="line"),
                alt.Tooltip("kind:N", title="of the"),
                alt.Tooltip("x:Q", title=curves["x_label"], format=".4~g"),
                alt.Tooltip("y:Q", title=curves["y_label"], format=".4~g"),
            ],
        )
    )
    looks = {
        "code": lambda part: part.mark_line(strokeWidth=2),
        "bound": lambda part: part.mark_line(strokeWidth=1.6, strokeDash=list(_BOUND)),
        "formula": lambda part: part.mark_point(filled=True, size=26).encode(
            shape=marks.shape(styles)
        ),
    }
    kinds = {series["kind"] for series in values}
    layers = [
        draw(base.transform_filter(f"datum.kind == '{kind}'"))
        for kind, draw in looks.items()
        if kind in kinds
    ]
    if not layers:
        return None
    chart = alt.layer(layers[0].add_params(marks.pick()), *layers[1:])
    names = {axis: curves[f"{axis}_label"] for axis in ("x", "y")}
    return marks.spec(chart, values, height=300) | {"usermeta": {"columns": names}}


def _axis(kind: Any, name: str, curves: Mapping[str, Any]) -> Any:
    import altair as alt

    is_log = curves[f"log_{name}"]
    options = {"type": "log"} if is_log else {"zero": False}
    return kind(
        f"{name}:Q",
        title=curves[f"{name}_label"],
        scale=alt.Scale(nice=name == "y", **options),
        axis=alt.Axis(
            grid=name == "y" and not is_log,
            tickCount=6,
            format="~g",
            labelOverlap="greedy",
            labelSeparation=6,
        ),
    )


def drawable(series: Mapping[str, Any], curves: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Points that have a place on the axes."""
    pairs = zip(series["x"], series["y"], strict=True)
    return [
        (x, y)
        for x, y in pairs
        if is_number(x)
        and is_number(y)
        and (x > 0 or not curves.get("log_x"))
        and (y > 0 or not curves.get("log_y"))
    ]
