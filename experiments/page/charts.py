"""Charts of a grid's figures and curves, as specifications of Vega-Lite."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.page import look
from experiments.page.results import Block, Results, label, value, valued
from experiments.study.records import Entry

Values = list[dict[str, Any]]
_POINTS = 80  # epochs of a curve that are drawn at most
_ROW = 24  # pixels of a level


def spec(chart: Any) -> dict[str, Any]:
    """The chart as JSON; the page has a theme of its own."""
    import altair as alt

    with alt.data_transformers.enable(consolidate_datasets=False, max_rows=None):
        content = chart.to_dict()
    content.pop("config", None)
    content.pop("$schema", None)
    return content


def colour(styles: Mapping[str, look.Style]) -> Any:
    """The colour of the field `level`; the page draws the legend."""
    import altair as alt

    scale = alt.Scale(domain=list(styles), range=[style.variable for style in styles.values()])
    return alt.Color("level:N", scale=scale, legend=None)


def picked(opacity: float) -> Any:
    """The opacity of a level, less while the page's legend picks another."""
    import altair as alt

    test = "pick === '' || datum.level === pick"
    return alt.condition(test, alt.value(opacity), alt.value(opacity * 0.12))


def pick() -> Any:
    """What the page's legend picks: a level, or "" for none."""
    import altair as alt

    return alt.param(name="pick", value="")


def levels_axis(order: Sequence[str]) -> Any:
    """Levels below one another."""
    import altair as alt

    return alt.Y(
        "level:N",
        scale=alt.Scale(domain=list(order)),
        title=None,
        axis=alt.Axis(grid=False, ticks=False, domain=False),
    )


def shape(styles: Mapping[str, look.Style]) -> Any:
    """The mark of the field `level`."""
    import altair as alt

    scale = alt.Scale(domain=list(styles), range=[style.shape for style in styles.values()])
    return alt.Shape("level:N", scale=scale, legend=None)


def dash(styles: Mapping[str, look.Style]) -> Any:
    """The dash of the field `level`."""
    import altair as alt

    dashes = [list(style.dash) or [1, 0] for style in styles.values()]
    return alt.StrokeDash(
        "level:N", scale=alt.Scale(domain=list(styles), range=dashes), legend=None
    )


def comparison(block: Block, metric: str, styles: Mapping[str, look.Style]) -> dict[str, Any]:
    """Levels below one another: mean, 95 % interval, each seed, and published figures."""
    import altair as alt

    values, domain = _comparison_values(block)
    order = [row.name for row in block.ordered()]
    base = alt.Chart(alt.InlineData(values=values)).encode(
        y=levels_axis(order), color=colour(styles)
    )
    scale = alt.Scale(domain=domain, zero=False, nice=True)
    axis = alt.Axis(tickCount=6)
    x = alt.X("mean:Q", title=label(metric), scale=scale, axis=axis)
    tooltip = [
        alt.Tooltip("level:N"),
        alt.Tooltip("mean:Q", format=".2f"),
        alt.Tooltip("low:Q", title="95 % from", format=".2f"),
        alt.Tooltip("high:Q", title="95 % to", format=".2f"),
        alt.Tooltip("n:Q", title="seeds"),
    ]
    means = base.transform_filter("datum.kind == 'mean'")
    layers = [
        means.mark_rule(strokeWidth=2, clip=True).encode(
            x=alt.X("low:Q", title=label(metric), scale=scale, axis=axis), x2="high:Q"
        ),
        base.transform_filter("datum.kind == 'seed'")
        .mark_tick(thickness=1.3, size=13, opacity=0.55, clip=True)
        .encode(x=x, tooltip=["level:N", "seed:N", alt.Tooltip("mean:Q", format=".2f")]),
        means.mark_point(filled=True, size=75, opacity=1, clip=True).encode(
            x=x, shape=shape(styles), tooltip=tooltip
        ),
    ]
    if any(row["kind"] == "published" for row in values):
        layers.append(
            base.transform_filter("datum.kind == 'published'")
            .mark_point(shape="diamond", size=85, strokeWidth=1.6, clip=True)
            .encode(
                x=x,
                color=alt.value("var(--ink)"),
                tooltip=["level:N", alt.Tooltip("mean:Q", title="published")],
            )
        )
    chart = alt.layer(*layers, data=alt.InlineData(values=values))
    return spec(chart.properties(width="container", height=_ROW * max(2, len(order))))


def _comparison_values(block: Block) -> tuple[Values, list[float]]:
    """The data, and the ends of the axis."""
    values: Values = []
    for row in block.ordered():
        entry = {"level": row.name, "kind": "mean", "mean": row.last.mean, "n": row.last.n}
        values.append(entry | {"low": row.last.low, "high": row.last.high})
        values += [
            {"level": row.name, "kind": "seed", "seed": seed, "mean": figure}
            for seed, figure in row.values.items()
        ]
        if row.published is not None:
            values.append({"level": row.name, "kind": "published", "mean": row.published})
    return values, extent(
        [entry["mean"] for entry in values],
        [x for entry in values for x in (entry.get("low"), entry.get("high")) if x is not None],
    )


def extent(figures: Sequence[float], bounds: Sequence[float]) -> list[float]:
    """The ends of an axis that shows all figures.

    Intervals of two seeds can be so wide that the figures would become one dot; such are cut off.
    """
    low, high = min(figures), max(figures)
    span = max(high - low, 0.02 * abs(high), 1e-3)
    low, high = (
        min([low, *(x for x in bounds if x > low - span)]),
        max([high, *(x for x in bounds if x < high + span)]),
    )
    margin = 0.04 * (high - low or span)
    return [low - margin, high + margin]


def comparison_domain(block: Block) -> list[float]:
    """The ends of the axis of `comparison`."""
    return _comparison_values(block)[1]


def is_cut(block: Block) -> bool:
    """Whether an interval is wider than the axis that `comparison` draws."""
    values, (low, high) = _comparison_values(block)
    return any(
        entry["kind"] == "mean"
        and entry["low"] is not None
        and (entry["low"] < low or entry["high"] > high)
        for entry in values
    )


def ranking(results: Results, styles: Mapping[str, look.Style]) -> dict[str, Any]:
    """Mean ranks below one another; bars at the right join levels that are not told apart."""
    import altair as alt

    found = results.ranking
    order = list(found.mean_ranks)
    values: Values = [
        {"level": name, "kind": "rank", "rank": rank} for name, rank in found.mean_ranks.items()
    ]
    groups = [group for group in found.groups if len(group) > 1]
    for i, group in enumerate(groups):
        place = len(order) + 0.35 + 0.3 * i
        values.append(
            {"level": group[0], "to": group[-1], "kind": "group", "rank": place}
        )
    base = alt.Chart(alt.InlineData(values=values)).encode(
        y=levels_axis(order)
    )
    end = len(order) + 0.35 + 0.3 * len(groups)
    x = alt.X(
        "rank:Q",
        title="mean rank (1 is best)",
        scale=alt.Scale(domain=[0.8, end], nice=False, zero=False),
        axis=alt.Axis(values=list(range(1, len(order) + 1)), format="d"),
    )
    points = base.transform_filter("datum.kind == 'rank'").encode(x=x)
    chart = alt.layer(
        points.mark_rule(strokeWidth=1.2, opacity=0.5).encode(
            x2=alt.datum(1), color=colour(styles)
        ),
        points.mark_point(filled=True, size=80, opacity=1).encode(
            color=colour(styles),
            shape=shape(styles),
            tooltip=["level:N", alt.Tooltip("rank:Q", title="mean rank", format=".2f")],
        ),
        base.transform_filter("datum.kind == 'group'")
        .mark_rule(strokeWidth=4, strokeCap="round", color="var(--soft)")
        .encode(x=x, y2="to:N"),
        data=alt.InlineData(values=values),
    )
    return spec(chart.properties(width="container", height=_ROW * len(order)))


def factor_map(
    results: Results
) -> list[tuple[str, dict[str, Any]]]:
    """Cells of two factors with values, with the mean in each; a chart for each other level."""
    import altair as alt

    down, across = valued(results.grid)[:2]
    charts = []
    for name, values in map_values(results).items():
        means = [entry["mean"] for entry in values if entry["mean"] is not None]
        middle = min(means) + 0.6 * (max(means) - min(means)) if means else 0.0
        base = alt.Chart(alt.InlineData(values=values)).encode(
            x=alt.X(
                "across:O", title=across["label"], sort=[x["name"] for x in across["levels"]],
                axis=alt.Axis(labelAngle=0, ticks=False, domain=False),
            ),
            y=alt.Y(
                "down:O", title=down["label"], sort=[x["name"] for x in down["levels"]][::-1],
                axis=alt.Axis(ticks=False, domain=False),
            ),
            tooltip=[
                alt.Tooltip("down:O", title=down["label"]),
                alt.Tooltip("across:O", title=across["label"]),
                alt.Tooltip("mean:Q", format=".2f"),
                alt.Tooltip("std:Q", title="deviation", format=".2f"),
                alt.Tooltip("n:Q", title="seeds"),
            ],
        )
        chart = alt.layer(
            base.mark_rect(cornerRadius=2, stroke="var(--paper)", strokeWidth=2).encode(
                color=alt.Color(
                    "mean:Q", title=label(results.grid.metric),
                    scale=alt.Scale(scheme="viridis", zero=False),
                )
            ),
            base.mark_text(fontSize=12).encode(
                text=alt.Text("mean:Q", format=".2f"),
                color=alt.condition(
                    f"datum.mean > {middle}", alt.value("#000000"), alt.value("#ffffff")
                ),
            ),
            data=alt.InlineData(values=values),
        )
        height = 44 * len(down["levels"])
        charts.append((name, spec(chart.properties(width="container", height=height))))
    return charts


def map_values(results: Results) -> dict[str, Values]:
    """The cells of a map, by the levels of the factors that it has no axis for."""
    down, across = (factor["name"] for factor in valued(results.grid)[:2])
    found: dict[str, Values] = {}
    for block in results.blocks:
        for row in block.rows.values():
            levels = dict(block.levels) | {results.grid.compared: row.name}
            others = [v for k, v in levels.items() if k not in (down, across) and v]
            found.setdefault(", ".join(others), []).append(
                {
                    "down": levels[down],
                    "across": levels[across],
                    "mean": row.last.mean,
                    "std": row.last.std,
                    "n": row.last.n,
                }
            )
    return found


def factor_curve(results: Results, styles: Mapping[str, look.Style]) -> dict[str, Any]:
    """Means over a factor with values, a line a level, with 95 % intervals."""
    import altair as alt

    factor = valued(results.grid)[0]
    values = curve_values(results)
    domain = extent(
        [entry["mean"] for entry in values],
        [x for entry in values for x in (entry["low"], entry["high"]) if x is not None],
    )
    log = factor["log"] and all(level["value"] > 0 for level in factor["levels"])
    places = [level["value"] for level in factor["levels"]]
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=alt.X(
            "x:Q", title=factor["label"],
            scale=alt.Scale(nice=False, padding=14, **({"type": "log"} if log else {"zero": False})),
            axis=alt.Axis(values=places, grid=False, format="~g", labelOverlap=True),
        ),
        color=colour(styles),
    )
    scale = alt.Scale(domain=domain, zero=False)
    y = alt.Y("mean:Q", title=label(results.grid.metric), scale=scale)
    tooltip = [
        alt.Tooltip("level:N"),
        alt.Tooltip("x:Q", title=factor["label"]),
        alt.Tooltip("mean:Q", format=".2f"),
        alt.Tooltip("low:Q", title="95 % from", format=".2f"),
        alt.Tooltip("high:Q", title="95 % to", format=".2f"),
        alt.Tooltip("n:Q", title="seeds"),
    ]
    chart = alt.layer(
        base.mark_area(clip=True).encode(
            opacity=picked(0.13), y=alt.Y("low:Q", title=label(results.grid.metric), scale=scale), y2="high:Q"
        ),
        base.mark_line(strokeWidth=2, clip=True)
        .encode(y=y, strokeDash=dash(styles), opacity=picked(1))
        .add_params(pick()),
        base.mark_point(filled=True, size=60).encode(
            y=y, opacity=picked(1), shape=shape(styles), tooltip=tooltip
        ),
        data=alt.InlineData(values=values),
    )
    return spec(chart.properties(width="container", height=300))


def curve_values(results: Results) -> Values:
    """The points of a curve over a factor."""
    factor = valued(results.grid)[0]
    values: Values = []
    for block in results.blocks:
        for row in block.rows.values():
            levels = dict(block.levels) | {results.grid.compared: row.name}
            if not row.last.n:
                continue
            others = [v for k, v in levels.items() if k != factor["name"] and v]
            values.append(
                {
                    "level": ", ".join(others) or results.grid.name,
                    "x": value(factor, levels[factor["name"]]),
                    "mean": row.last.mean,
                    "low": row.last.low,
                    "high": row.last.high,
                    "n": row.last.n,
                }
            )
    return values


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
        alt.Chart(alt.InlineData(values=values))
        .transform_flatten(["epoch", "value"])
        .encode(
            x=alt.X(
                "epoch:Q", title="epoch", scale=alt.Scale(nice=False),
                axis=alt.Axis(grid=False, labelOverlap="greedy", labelSeparation=8),
            ),
            color=colour(styles),
        )
    )
    run = alt.Tooltip("run:N")
    number = alt.Tooltip("value:Q", title=title, format=".4~g")
    thin = base.mark_line(strokeWidth=1, clip=True).encode(
        y=alt.Y("value:Q", title=title, scale=scale), detail="run:N",
        tooltip=[run, alt.Tooltip("epoch:Q"), number], opacity=picked(0.4),
    )
    mean = base.mark_line(strokeWidth=2.2, clip=True).encode(
        y=alt.Y("mean(value):Q", title=title, scale=scale), strokeDash=dash(styles),
        opacity=picked(1),
        tooltip=["level:N", "epoch:Q", alt.Tooltip("mean(value):Q", format=".4~g")],
    )
    chart = alt.layer(thin.add_params(pick()), mean, data=alt.InlineData(values=values))
    return spec(chart.properties(width="container", height=260))


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


def calculation(curves: Mapping[str, Any], styles: Mapping[str, look.Style]) -> dict[str, Any] | None:
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
            f"{axis}:Q", title=name, scale=alt.Scale(type=type_, nice=axis == "y", **({} if type_ == "log" else {"zero": False})),
            axis=alt.Axis(grid=axis == "y", tickCount=6, format="~g"),
        )
    base = (
        alt.Chart(alt.InlineData(values=values))
        .transform_flatten([curves["x_label"], curves["y_label"]], ["x", "y"])
        .encode(
            **axes,
            color=colour(styles),
            opacity=picked(1),
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
        layers.append(lines.encode(strokeDash=dash(styles)))
    if "points" in kinds:
        points = base.transform_filter("datum.kind == 'points'").mark_point(filled=True, size=55)
        layers.append(points.encode(shape=shape(styles)))
    if not layers:
        return None
    chart = alt.layer(layers[0].add_params(pick()), *layers[1:], data=alt.InlineData(values=values))
    return spec(chart.properties(width="container", height=260))


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

