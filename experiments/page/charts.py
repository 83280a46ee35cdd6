"""Charts of a grid's results and of learning curves, as Vega-Lite specifications."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.page.results import Block, Results, label
from experiments.page.styles import Style
from experiments.study.records import RunRecord, is_number

Values = list[dict[str, Any]]
Styles = Mapping[str, Style]
Spec = dict[str, Any]

# Height of a level, in pixels.
_ROW = 24
# Maximum number of epochs in a curve.
_POINTS = 80
# Maximum number of ticks on an axis of epochs.
_TICKS = 8
_INTERVAL = (("mean:Q", "mean"), ("low:Q", "95 % from"), ("high:Q", "95 % to"))


def base() -> Any:
    """Returns an empty chart; `spec` inserts the data, which Altair would scan several times."""
    import altair as alt

    return alt.Chart(alt.NamedData(name="numbers"))


def spec(chart: Any, values: Values, height: int) -> Spec:
    """Returns a chart as JSON, with the width of its container and without a theme.

    Args:
      chart: a chart based on `base`.
      values: its data, one dict for each row; `transform_flatten` expands lists to rows.
      height: in pixels.
    """
    content = chart.properties(width="container", height=height).to_dict(validate=False)
    for name in ("config", "$schema", "datasets"):
        content.pop(name, None)
    return content | {"data": {"values": values}}


def level_encoding(styles: Styles, *names: str) -> dict[str, Any]:
    """Returns encodings of the field `level`, without legends because the page draws them.

    Args:
      styles: the styles of the levels.
      *names: "color", "shape" or "strokeDash".
    """
    import altair as alt

    kinds = {
        "color": (alt.Color, [style.color for style in styles.values()]),
        "shape": (alt.Shape, [style.shape for style in styles.values()]),
        "strokeDash": (alt.StrokeDash, [list(style.dash) or [1, 0] for style in styles.values()]),
    }
    return {
        name: kind("level:N", scale=alt.Scale(domain=list(styles), range=values), legend=None)
        for name, (kind, values) in kinds.items()
        if name in names
    }


def selected(opacity: float) -> Any:
    """Returns the opacity of a level, reduced while the legend highlights another level."""
    import altair as alt

    test = "pick === '' || datum.level === pick"
    return alt.condition(test, alt.value(opacity), alt.value(opacity * 0.12))


def selection() -> Any:
    """Returns the parameter with the level that the legend highlights; "" if no level is."""
    import altair as alt

    return alt.param(name="pick", value="")


def tooltips(*fields: str | tuple[str, str], number: str = ".2f") -> list[Any]:
    """Returns tooltips of fields, or (field, title) pairs; `number` formats quantities."""
    import altair as alt

    pairs = [(field, alt.Undefined) if isinstance(field, str) else field for field in fields]
    return [
        alt.Tooltip(field, title=title, format=number if field.endswith(":Q") else alt.Undefined)
        for field, title in pairs
    ]


def extent(means: Sequence[float], bounds: Sequence[float | None]) -> list[float]:
    """Returns the limits of an axis that contains all means.

    Ends of intervals far from the means are ignored. Intervals of two seeds can be so wide that the
    means would coincide.
    """
    low, high = min(means), max(means)
    span = max(high - low, 0.02 * abs(high), 1e-3)
    ends = [x for x in bounds if x is not None]
    low, high = (
        min([low, *(x for x in ends if x > low - span)]),
        max([high, *(x for x in ends if x < high + span)]),
    )
    margin = 0.04 * (high - low or span)
    return [low - margin, high + margin]


def comparison(block: Block, metric: str, styles: Styles) -> Spec:
    """Returns a chart with a row per level: mean, 95 % interval, seeds and published value."""
    import altair as alt

    values: Values = []
    for row in block.ordered():
        numbers = {"mean": row.last.mean, "low": row.last.low, "high": row.last.high}
        values.append({"level": row.name, "kind": "mean", **numbers, "n": row.last.n})
        values += [
            {"level": row.name, "kind": "seed", "seed": seed, "mean": value}
            for seed, value in row.values.items()
        ]
        if row.published is not None:
            values.append({"level": row.name, "kind": "published", "mean": row.published})
    bounds = [value.get(end) for value in values for end in ("low", "high")]
    domain = extent([value["mean"] for value in values], bounds)
    axis = {
        "title": label(metric),
        "scale": alt.Scale(domain=domain, zero=False),
        "axis": alt.Axis(tickCount=6),
    }
    order = [row.name for row in block.ordered()]
    look = alt.Axis(grid=False, ticks=False, domain=False)
    y = alt.Y("level:N", scale=alt.Scale(domain=order), title=None, axis=look)
    rows = base().encode(y=y, **level_encoding(styles, "color"))
    x = alt.X("mean:Q", **axis)
    means = rows.transform_filter("datum.kind == 'mean'")
    layers = [
        means.mark_rule(strokeWidth=2, clip=True).encode(x=alt.X("low:Q", **axis), x2="high:Q"),
        rows.transform_filter("datum.kind == 'seed'")
        .mark_tick(thickness=1.3, size=13, opacity=0.55, clip=True)
        .encode(x=x, tooltip=tooltips("level:N", "seed:N", "mean:Q")),
        means.mark_point(filled=True, size=75, opacity=1, clip=True).encode(
            x=x, tooltip=tooltips("level:N", *_INTERVAL, "n:N"), **level_encoding(styles, "shape")
        ),
        rows.transform_filter("datum.kind == 'published'")
        .mark_point(shape="diamond", size=85, strokeWidth=1.6, clip=True)
        .encode(
            x=x, color=alt.value("var(--ink)"), tooltip=tooltips("level:N", ("mean:Q", "published"))
        ),
    ]
    return spec(alt.layer(*layers), values, height=_ROW * max(2, len(order)))


def factor_maps(results: Results) -> dict[str, Spec]:
    """Returns a map of means over two numeric factors, for each combination of other factors."""
    import altair as alt

    down, across = results.valued[:2]
    maps: dict[str, Values] = {}
    for levels, row in results.cells():
        others = [v for k, v in levels.items() if k not in (down["name"], across["name"])]
        place = {"down": levels[down["name"]], "across": levels[across["name"]]}
        numbers = {"mean": row.last.mean, "std": row.last.std, "n": row.last.n}
        maps.setdefault(", ".join(others), []).append(place | numbers)

    def axis(kind: Any, name: str, factor: Mapping[str, Any], step: int) -> Any:
        order = [level["name"] for level in factor["levels"]][::step]
        look = alt.Axis(labelAngle=0, ticks=False, domain=False)
        return kind(f"{name}:O", title=factor["label"], sort=order, axis=look)

    charts = {}
    for name, values in maps.items():
        means = [value["mean"] for value in values if value["mean"] is not None]
        dark = min(means) + 0.6 * (max(means) - min(means)) if means else 0.0
        cells = base().encode(
            x=axis(alt.X, "across", across, 1),
            y=axis(alt.Y, "down", down, -1),
            tooltip=tooltips(
                ("down:O", down["label"]), ("across:O", across["label"]), "mean:Q", "std:Q", "n:N"
            ),
        )
        scale = alt.Scale(scheme="viridis", zero=False)
        chart = alt.layer(
            cells.mark_rect(cornerRadius=2, stroke="var(--paper)", strokeWidth=2).encode(
                color=alt.Color("mean:Q", title=label(results.grid.metric), scale=scale)
            ),
            cells.mark_text(fontSize=12).encode(
                text=alt.Text("mean:Q", format=".2f"),
                color=alt.condition(f"datum.mean > {dark}", alt.value("#000"), alt.value("#fff")),
            ),
        )
        charts[name] = spec(chart, values, height=44 * len(down["levels"]))
    return charts


def curve_values(results: Results) -> Values:
    """Returns the points of curves over a numeric factor."""
    factor = results.valued[0]
    places = {level["name"]: level["value"] for level in factor["levels"]}
    return [
        {
            "level": ", ".join(v for k, v in levels.items() if k != factor["name"])
            or results.grid.name,
            "x": places[levels[factor["name"]]],
            "mean": row.last.mean,
            "low": row.last.low,
            "high": row.last.high,
            "n": row.last.n,
        }
        for levels, row in results.cells()
        if row.last.n
    ]


def factor_curve(results: Results, values: Values, styles: Styles) -> Spec:
    """Returns a chart of means over a numeric factor, with a line per level and 95 % intervals."""
    import altair as alt

    factor = results.valued[0]
    places = [level["value"] for level in factor["levels"]]
    log = {"type": "log"} if factor["log"] and min(places) > 0 else {"zero": False}
    points = base().encode(
        x=alt.X(
            "x:Q",
            title=factor["label"],
            scale=alt.Scale(nice=False, padding=14, **log),
            axis=alt.Axis(values=places, grid=False, format="~g", labelOverlap=True),
        ),
        **level_encoding(styles, "color"),
    )
    bounds = [value[end] for value in values for end in ("low", "high")]
    domain = extent([value["mean"] for value in values], bounds)
    axis = {"title": label(results.grid.metric), "scale": alt.Scale(domain=domain, zero=False)}
    y = alt.Y("mean:Q", **axis)
    layers = [
        points.mark_area(clip=True).encode(
            opacity=selected(0.13), y=alt.Y("low:Q", **axis), y2="high:Q"
        ),
        points.mark_line(strokeWidth=2, clip=True)
        .encode(y=y, opacity=selected(1), **level_encoding(styles, "strokeDash"))
        .add_params(selection()),
        points.mark_point(filled=True, size=60).encode(
            y=y,
            opacity=selected(1),
            tooltip=tooltips("level:N", ("x:N", factor["label"]), *_INTERVAL, "n:N"),
            **level_encoding(styles, "shape"),
        ),
    ]
    return spec(alt.layer(*layers), values, height=300)


def run_values(runs: Sequence[tuple[str, RunRecord]], column: str) -> Values:
    """Returns a metrics column by epoch: a dict per run, with lists of epochs and values.

    Args:
      runs: (level, run) pairs.
      column: a column of metrics.jsonl.
    """
    values: Values = []
    for level, run in runs:
        stride = max(1, math.ceil(len(run.rows) / _POINTS))
        rows = [r for r in run.rows[::-1][::stride][::-1] if is_number(r.get(column))]
        if rows:
            curve = {"epoch": [r["epoch"] for r in rows], "value": [r[column] for r in rows]}
            values.append({"level": level, "run": run.label, "seed": run.seed, **curve})
    return values


def learning_curves(
    values: Values, title: str, styles: Styles, marks: Mapping[str, float] | None = None
) -> Spec:
    """Returns curves by epoch: a thin line per run, and a thick line for the mean of a level.

    Args:
      values: from `run_values`.
      title: the title of the axis.
      styles: the styles of the levels.
      marks: epochs to mark by a vertical line, by the text next to the line.
    """
    import altair as alt

    numbers = [x for row in values for x in row["value"]]
    epochs = [x for row in values for x in row["epoch"]]
    margin = 0.06 * (max(numbers) - min(numbers)) or 0.05 * abs(max(numbers)) or 0.5
    scale = alt.Scale(domain=[min(numbers) - margin, max(numbers) + margin], zero=False)
    marked: Values = [
        {"level": text, "mark": text, "epoch": [epoch], "value": [None]}
        for text, epoch in (marks or {}).items()
    ]
    x = _epoch_axis(min(epochs), max(epochs))
    everything = base().transform_flatten(["epoch", "value"]).encode(x=x)
    lines = everything.transform_filter("!datum.mark").encode(**level_encoding(styles, "color"))
    # A line with a single point is invisible.
    points = len(set(epochs)) == 1
    thin = lines.mark_line(strokeWidth=1, clip=True, point=points).encode(
        y=alt.Y("value:Q", title=title, scale=scale),
        detail="run:N",
        opacity=selected(0.4),
        tooltip=tooltips("run:N", "epoch:N", ("value:Q", title), number=".4~g"),
    )
    mean = lines.mark_line(strokeWidth=2.2, clip=True).encode(
        y=alt.Y("mean(value):Q", title=title, scale=scale),
        opacity=selected(1),
        tooltip=tooltips("level:N", "epoch:N", ("mean(value):Q", title), number=".4~g"),
        **level_encoding(styles, "strokeDash"),
    )
    layers = [thin.add_params(selection()), mean]
    if marked:
        rules = everything.transform_filter("datum.mark")
        is_right = max(marks.values()) > (min(epochs) + max(epochs)) / 2
        side = {"align": "right", "dx": -5} if is_right else {"align": "left", "dx": 5}
        text = {**side, "baseline": "top", "fontSize": 12}
        layers += [
            rules.mark_rule(strokeDash=[3, 3], color="var(--soft)"),
            rules.mark_text(**text, color="var(--soft)").encode(text="mark:N", y=alt.value(0)),
        ]
    return spec(alt.layer(*layers), values + marked, height=260)


def _epoch_axis(first: int, last: int) -> Any:
    """Returns the encoding of epochs, with whole numbers at the ticks."""
    import altair as alt

    steps = (factor * 10**power for power in range(9) for factor in (1, 2, 5))
    step = next(step for step in steps if (last - first) / step <= _TICKS)
    ticks = [first] if step > 1 and first % step else []
    ticks += list(range(-(-first // step) * step, last + 1, step))
    domain = [first, last] if first < last else [first - 1, last + 1]
    return alt.X(
        "epoch:Q",
        scale=alt.Scale(domain=domain, nice=False),
        axis=alt.Axis(grid=False, values=ticks, format="d", labelOverlap="greedy"),
    )
