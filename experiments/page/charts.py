"""Charts of a grid's figures and curves, as specifications of Vega-Lite."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.page import look, marks
from experiments.page.marks import Values
from experiments.page.results import Block, Results, far_below, label, value, valued

_ROW = 24  # pixels of a level


def comparison(block: Block, metric: str, styles: Mapping[str, look.Style]) -> dict[str, Any]:
    """Levels below one another: mean, 95 % interval, each seed, and published figures."""
    import altair as alt

    values, domain = _comparison_values(block)
    order = [row.name for row in block.ordered()]
    base = marks.chart_of().encode(y=marks.levels_axis(order), color=marks.colour(styles))
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
            x=x, shape=marks.shape(styles), tooltip=tooltip
        ),
    ]
    if outliers(block):
        layers.append(
            base.transform_filter("datum.kind == 'far'")
            .mark_text(align="left", dx=3)
            .encode(x=alt.value(0), text="text:N", color=alt.value("var(--soft)"))
        )
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
    chart = alt.layer(*layers)
    return marks.spec(chart, values, height=_ROW * max(2, len(order)))


def _comparison_values(block: Block) -> tuple[Values, list[float]]:
    """The data, and the ends of the axis."""
    values: Values = []
    far = outliers(block)
    for row in block.ordered():
        if row.name in far:
            words = f"← {row.last.mean:.2f}, left of this axis"
            values.append({"level": row.name, "kind": "far", "mean": row.last.mean, "text": words})
            continue
        entry = {"level": row.name, "kind": "mean", "mean": row.last.mean, "n": row.last.n}
        values.append(entry | {"low": row.last.low, "high": row.last.high})
        values += [
            {"level": row.name, "kind": "seed", "seed": seed, "mean": figure}
            for seed, figure in row.values.items()
        ]
        if row.published is not None:
            values.append({"level": row.name, "kind": "published", "mean": row.published})
    return values, extent(
        [entry["mean"] for entry in values if entry["kind"] != "far"],
        [x for entry in values for x in (entry.get("low"), entry.get("high")) if x is not None],
    )


def outliers(block: Block) -> list[str]:
    """Levels so far below the others that these could not be told apart on an axis with them."""
    edge = far_below([row.last.mean for row in block.ordered()])
    return [row.name for row in block.ordered() if row.last.mean < edge]


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
        values.append({"level": group[0], "to": group[-1], "kind": "group", "rank": place})
    base = marks.chart_of().encode(y=marks.levels_axis(order))
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
            x2=alt.datum(1), color=marks.colour(styles)
        ),
        points.mark_point(filled=True, size=80, opacity=1).encode(
            color=marks.colour(styles),
            shape=marks.shape(styles),
            tooltip=["level:N", alt.Tooltip("rank:Q", title="mean rank", format=".2f")],
        ),
        base.transform_filter("datum.kind == 'group'")
        .mark_rule(strokeWidth=4, strokeCap="round", color="var(--soft)")
        .encode(x=x, y2="to:N"),
    )
    return marks.spec(chart, values, height=_ROW * len(order))


def factor_map(results: Results) -> list[tuple[str, dict[str, Any]]]:
    """Cells of two factors with values, with the mean in each; a chart for each other level."""
    import altair as alt

    down, across = valued(results.grid)[:2]
    charts = []
    for name, values in map_values(results).items():
        means = [entry["mean"] for entry in values if entry["mean"] is not None]
        middle = min(means) + 0.6 * (max(means) - min(means)) if means else 0.0
        base = marks.chart_of().encode(
            x=alt.X(
                "across:O",
                title=across["label"],
                sort=[x["name"] for x in across["levels"]],
                axis=alt.Axis(labelAngle=0, ticks=False, domain=False),
            ),
            y=alt.Y(
                "down:O",
                title=down["label"],
                sort=[x["name"] for x in down["levels"]][::-1],
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
                    "mean:Q",
                    title=label(results.grid.metric),
                    scale=alt.Scale(scheme="viridis", zero=False),
                )
            ),
            base.mark_text(fontSize=12).encode(
                text=alt.Text("mean:Q", format=".2f"),
                color=alt.condition(
                    f"datum.mean > {middle}", alt.value("#000000"), alt.value("#ffffff")
                ),
            ),
        )
        height = 44 * len(down["levels"])
        charts.append((name, marks.spec(chart, values, height=height)))
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
    base = marks.chart_of().encode(
        x=alt.X(
            "x:Q",
            title=factor["label"],
            scale=alt.Scale(
                nice=False, padding=14, **({"type": "log"} if log else {"zero": False})
            ),
            axis=alt.Axis(values=places, grid=False, format="~g", labelOverlap=True),
        ),
        color=marks.colour(styles),
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
            opacity=marks.picked(0.13),
            y=alt.Y("low:Q", title=label(results.grid.metric), scale=scale),
            y2="high:Q",
        ),
        base.mark_line(strokeWidth=2, clip=True)
        .encode(y=y, strokeDash=marks.dash(styles), opacity=marks.picked(1))
        .add_params(marks.pick()),
        base.mark_point(filled=True, size=60).encode(
            y=y, opacity=marks.picked(1), shape=marks.shape(styles), tooltip=tooltip
        ),
    )
    return marks.spec(chart, values, height=300)


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
