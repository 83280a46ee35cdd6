"""Charts of measures: confusions, correlations, accuracies, reliability and t-SNE."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.page.charts import (
    Spec,
    Styles,
    Values,
    base,
    level_encoding,
    selected,
    selection,
    spec,
    tooltips,
)

# Maximum number of classes in a map.
CLASSES = 40


def correlation(values: np.ndarray, labels: Sequence[str], *, difference: bool = False) -> Spec:
    """Returns a map of correlations between classes, or of differences of correlations.

    Args:
      values: [C, C].
      labels: unique names of the classes.
      difference: True for differences, whose color scale ends at 0.5.
    """
    import altair as alt

    end = 0.5 if difference else 1.0
    rows = [
        {"row": down, "column": across, "value": _finite(values[i, j])}
        for i, down in enumerate(labels)
        for j, across in enumerate(labels)
    ]
    color = alt.Color(
        "value:Q",
        title="difference" if difference else "correlation",
        scale=alt.Scale(scheme="purpleorange", reverse=True, domain=[-end, end], clamp=True),
        legend=alt.Legend(gradientLength=120, values=[-end, 0, end]),
    )
    chart = (
        base()
        .mark_rect()
        .encode(
            color=color,
            tooltip=tooltips("row:N", "column:N", "value:Q", number="+.3f"),
            **_class_axes("row", "column", labels),
        )
    )
    return spec(chart, rows, height=270)


def confusion(counts: np.ndarray, labels: Sequence[str]) -> Spec:
    """Returns a map of predictions in percent per class; correct predictions have no color.

    Args:
      counts: [C, C], with a row per class and a column per prediction.
      labels: unique names of the classes.
    """
    import altair as alt

    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    rows = [
        {
            "class": down,
            "predicted": across,
            "hit": i == j,
            "share": _finite(shares[i, j]),
            "images": int(counts[i, j]),
        }
        for i, down in enumerate(labels)
        for j, across in enumerate(labels)
        if counts[i, j] or i == j
    ]
    top = max((row["share"] for row in rows if not row["hit"]), default=0.0) or 1.0
    cells = base().encode(
        tooltip=tooltips("class:N", "predicted:N", ("share:Q", "%"), "images:N", number=".1f"),
        **_class_axes("class", "predicted", labels),
    )
    hits, misses = (cells.transform_filter(test) for test in ("datum.hit", "!datum.hit"))
    scale = alt.Scale(scheme="oranges", domain=[0, top])
    layers = [
        hits.mark_rect(color="var(--faint)"),
        misses.mark_rect().encode(
            color=alt.Color("share:Q", title="of the class (%)", scale=scale)
        ),
    ]
    if len(labels) <= 12:
        text = alt.Text("share:Q", format=".1f")
        dark = alt.condition(f"datum.share > {0.6 * top}", alt.value("#fff"), alt.value("#000"))
        layers.append(hits.mark_text(fontSize=11, color="var(--soft)").encode(text=text))
        layers.append(misses.mark_text(fontSize=11).encode(text=text, color=dark))
    return spec(alt.layer(*layers), rows, height=min(560, max(200, 30 * len(labels))))


def _class_axes(down: str, across: str, labels: Sequence[str]) -> dict[str, Any]:
    import altair as alt

    look = {"ticks": False, "domain": False, "labelLimit": 90, "labels": len(labels) <= CLASSES}
    angle = 0 if max(map(len, labels)) < 3 else -90
    order = {"sort": list(labels), "scale": alt.Scale(domain=list(labels))}
    return {
        "x": alt.X(f"{across}:N", axis=alt.Axis(labelAngle=angle, **look), **order),
        "y": alt.Y(f"{down}:N", axis=alt.Axis(**look), **order),
    }


def accuracies(rows: Values, order: Sequence[str], styles: Styles) -> Spec:
    """Returns a chart with a row per class and the accuracy of each level.

    Args:
      rows: dicts with `class`, `level` and `accuracy` in percent.
      order: the order of the classes.
      styles: the styles of the levels.
    """
    import altair as alt

    axis = alt.Axis(grid=True, gridDash=[1, 3], ticks=False, domain=False)
    chart = (
        base()
        .mark_point(filled=True, size=65)
        .encode(
            x=alt.X("accuracy:Q", title="accuracy of the class (%)", scale=alt.Scale(zero=False)),
            y=alt.Y("class:N", scale=alt.Scale(domain=list(order)), title=None, axis=axis),
            opacity=selected(1),
            tooltip=tooltips("class:N", "level:N", "accuracy:Q"),
            **level_encoding(styles, "color", "shape"),
        )
        .add_params(selection())
    )
    return spec(chart, rows, height=22 * len(order))


def reliability(curves: Mapping[str, Values], styles: Styles) -> Spec:
    """Returns a chart of accuracy against confidence, in percent.

    Args:
      curves: points with `confidence`, `accuracy` and `images`, by level.
      styles: the styles of the levels.
    """
    import altair as alt

    rows = [{"level": level, **point} for level, points in curves.items() for point in points]
    low = 10 * int(min(min(row["confidence"], row["accuracy"]) for row in rows) // 10)
    ideal = [{"level": "ideal", "confidence": x, "accuracy": x, "images": 0} for x in (low, 100)]
    scale = alt.Scale(domain=[low, 100], nice=False)
    points = base().encode(
        x=alt.X("confidence:Q", title="confidence (%)", scale=scale),
        y=alt.Y("accuracy:Q", title="accuracy (%)", scale=scale),
    )
    levels = points.transform_filter("datum.level !== 'ideal'").encode(
        **level_encoding(styles, "color")
    )
    size = alt.Size("images:Q", scale=alt.Scale(type="sqrt", range=[18, 160]), legend=None)
    layers = [
        points.transform_filter("datum.level === 'ideal'").mark_line(color="var(--line)"),
        levels.mark_line(strokeWidth=1.8)
        .encode(opacity=selected(1), **level_encoding(styles, "strokeDash"))
        .add_params(selection()),
        levels.mark_point(filled=True).encode(
            opacity=selected(0.9),
            size=size,
            tooltip=tooltips("level:N", "confidence:Q", "accuracy:Q", "images:N", number=".1f"),
            **level_encoding(styles, "shape"),
        ),
    ]
    return spec(alt.layer(*layers), rows + ideal, height=330)


def plane(values: Mapping[str, Any], role: str, styles: Styles) -> Spec:
    """Returns a chart of a network's embeddings in two dimensions.

    Args:
      values: the values of the measure `tsne`.
      role: "student" or "teacher".
      styles: the styles of the classes.
    """
    import altair as alt

    names = [str(name) for name in values["class_names"]]
    predictions = {
        network: values[f"{network}_prediction"]
        for network in ("teacher", "student")
        if f"{network}_prediction" in values
    }
    rows = [
        {
            "x": round(float(x), 2),
            "y": round(float(y), 2),
            "level": names[label],
            "picture": i,
            **{network: names[classes[i]] for network, classes in predictions.items()},
        }
        for i, ((x, y), label) in enumerate(zip(values[role], values["labels"], strict=True))
    ]
    axis = alt.Axis(labels=False, ticks=False, grid=False, domain=False, title=None)
    fields = [(f"{network}:N", f"{network} predicts") for network in predictions]
    chart = (
        base()
        .mark_point(filled=True, size=24)
        .encode(
            x=alt.X("x:Q", axis=axis, scale=alt.Scale(zero=False)),
            y=alt.Y("y:Q", axis=axis, scale=alt.Scale(zero=False)),
            opacity=selected(0.8),
            tooltip=tooltips("image:N", ("level:N", "label"), *fields),
            **level_encoding(styles, "color", "shape"),
        )
        .add_params(selection())
        .properties(view=alt.ViewBackground(stroke="var(--line)"))
    )
    return spec(chart, rows, height=260)


def _finite(value: Any) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
