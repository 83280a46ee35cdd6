"""Charts of what was measured: maps between classes, planes of embeddings, reliability."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.page import look, marks

_CLASSES = 40  # that a map shows at most


def sampled(count: int) -> list[int]:
    """Which of so many classes a map shows."""
    return np.unique(np.linspace(0, count - 1, min(count, _CLASSES)).round().astype(int)).tolist()


def correlation(values: np.ndarray, labels: Sequence[str], *, gap: bool = False) -> dict[str, Any]:
    """A map of classes by classes, from -1 to 1; of differences, within half of that.

    Args:
      values: [c, c].
      labels: of the classes, unlike one another.
      gap: whether these are differences.
    """
    import altair as alt

    rows = [
        {"row": down, "column": across, "value": number(values[i, j])}
        for i, down in enumerate(labels)
        for j, across in enumerate(labels)
    ]
    end = 0.5 if gap else 1.0
    scale = alt.Scale(scheme="purpleorange", reverse=True, domain=[-end, end], clamp=True)
    axis = alt.Axis(title=None, labels=len(labels) <= 24, ticks=False, domain=False, labelLimit=70)
    chart = (
        marks.chart_of()
        .mark_rect()
        .encode(
            x=alt.X("column:N", sort=list(labels), axis=_across(labels)),
            y=alt.Y("row:N", sort=list(labels), axis=axis),
            color=alt.Color(
                "value:Q",
                title="difference" if gap else "correlation",
                scale=scale,
                legend=alt.Legend(gradientLength=120, values=[-end, 0, end]),
            ),
            tooltip=["row:N", "column:N", alt.Tooltip("value:Q", format="+.3f")],
        )
    )
    return marks.spec(chart, rows, height=270)


def _across(labels: Sequence[str], title: str | None = None) -> Any:
    """The axis below; names that are long stand upright."""
    import altair as alt

    return alt.Axis(
        title=title,
        labels=len(labels) <= 40,
        ticks=False,
        domain=False,
        labelAngle=0 if max(map(len, labels)) < 3 else -90,
        labelLimit=70,
    )


def confusion(counts: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """What images of each class are taken for, in per cent of the class; hits have no colour.

    Args:
      counts: [c, c], a row a class.
      labels: of the classes, unlike one another.
    """
    import altair as alt

    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    rows = [
        {
            "class": down,
            "taken for": across,
            "share": number(shares[i, j]),
            "images": int(counts[i, j]),
            "hit": i == j,
        }
        for i, down in enumerate(labels)
        for j, across in enumerate(labels)
        if counts[i, j] or i == j
    ]
    axis = alt.Axis(
        title="class", labels=len(labels) <= 40, ticks=False, domain=False, labelLimit=90
    )
    base = marks.chart_of().encode(
        x=alt.X(
            "taken for:N",
            sort=list(labels),
            scale=alt.Scale(domain=list(labels)),
            axis=_across(labels, "taken for"),
        ),
        y=alt.Y("class:N", sort=list(labels), scale=alt.Scale(domain=list(labels)), axis=axis),
        tooltip=[
            "class:N",
            "taken for:N",
            alt.Tooltip("share:Q", title="%", format=".1f"),
            "images:Q",
        ],
    )
    misses = [row["share"] for row in rows if not row["hit"]]
    top = max(misses, default=1.0) or 1.0
    layers = [
        base.transform_filter("datum.hit").mark_rect(color="var(--faint)"),
        base.transform_filter("!datum.hit")
        .mark_rect()
        .encode(
            color=alt.Color(
                "share:Q",
                title="of the class (%)",
                scale=alt.Scale(scheme="oranges", domain=[0, top]),
            )
        ),
    ]
    if len(labels) <= 12:
        texts = base.mark_text(fontSize=11).encode(text=alt.Text("share:Q", format=".1f"))
        layers.append(texts.transform_filter("datum.hit").encode(color=alt.value("var(--soft)")))
        layers.append(
            texts.transform_filter("!datum.hit").encode(
                color=alt.condition(
                    f"datum.share > {0.6 * top}", alt.value("#ffffff"), alt.value("#000000")
                )
            )
        )
    chart = alt.layer(*layers)
    return marks.spec(chart, rows, height=min(560, max(200, 30 * len(labels))))


def accuracies(
    rows: list[dict[str, Any]], order: Sequence[str], styles: Mapping[str, look.Style]
) -> dict[str, Any]:
    """Classes below one another, with the accuracy of each level.

    Args:
      rows: of `class`, `level` and `accuracy` in per cent.
      order: of the classes.
      styles: of the levels.
    """
    import altair as alt

    chart = (
        marks.chart_of()
        .mark_point(filled=True, size=65)
        .encode(
            x=alt.X(
                "accuracy:Q",
                title="images of the class that are recognised (%)",
                scale=alt.Scale(zero=False),
                axis=alt.Axis(tickCount=6),
            ),
            y=alt.Y(
                "class:N",
                scale=alt.Scale(domain=list(order)),
                title=None,
                axis=alt.Axis(grid=True, gridDash=[1, 3], ticks=False, domain=False),
            ),
            color=marks.colour(styles),
            shape=marks.shape(styles),
            opacity=marks.picked(1),
            tooltip=["class:N", "level:N", alt.Tooltip("accuracy:Q", format=".2f")],
        )
        .add_params(marks.pick())
    )
    return marks.spec(chart, rows, height=22 * len(order))


def reliability(
    curves: Mapping[str, list[dict[str, Any]]], styles: Mapping[str, look.Style]
) -> dict[str, Any]:
    """Accuracy against confidence, in per cent.

    Args:
      curves: points of `confidence`, `accuracy` and `images`, by level.
      styles: of the levels.
    """
    import altair as alt

    rows = [{"level": level, **point} for level, points in curves.items() for point in points]
    low = 10 * int(min(min(row["confidence"], row["accuracy"]) for row in rows) // 10)
    ideal = [{"level": "ideal", "confidence": x, "accuracy": x, "images": 0} for x in (low, 100)]
    scale = alt.Scale(domain=[low, 100], nice=False)
    base = marks.chart_of().encode(
        x=alt.X(
            "confidence:Q",
            title="confidence (%)",
            scale=scale,
            axis=alt.Axis(grid=False, tickCount=5),
        ),
        y=alt.Y("accuracy:Q", title="accuracy (%)", scale=scale, axis=alt.Axis(tickCount=5)),
    )
    levels = base.transform_filter("datum.level !== 'ideal'").encode(color=marks.colour(styles))
    chart = alt.layer(
        base.transform_filter("datum.level === 'ideal'").mark_line(
            color="var(--line)", strokeWidth=2
        ),
        levels.mark_line(strokeWidth=1.8)
        .encode(strokeDash=marks.dash(styles), opacity=marks.picked(1))
        .add_params(marks.pick()),
        levels.mark_point(filled=True).encode(
            shape=marks.shape(styles),
            opacity=marks.picked(0.9),
            size=alt.Size("images:Q", scale=alt.Scale(type="sqrt", range=[18, 160]), legend=None),
            tooltip=[
                "level:N",
                alt.Tooltip("confidence:Q", format=".1f"),
                alt.Tooltip("accuracy:Q", format=".1f"),
                "images:Q",
            ],
        ),
    )
    return marks.spec(chart, rows + ideal, height=330)


def plane(values: Mapping[str, Any], role: str, styles: Mapping[str, look.Style]) -> dict[str, Any]:
    """Images in the plane, by what a network makes of them.

    Args:
      values: of the measure `tsne`.
      role: "student" or "teacher".
      styles: of the classes.
    """
    import altair as alt

    names = [str(name) for name in values["class_names"]]
    answers = {
        who: values[f"{who}_prediction"]
        for who in ("teacher", "student")
        if f"{who}_prediction" in values
    }
    rows = [
        {
            "x": round(float(x), 2),
            "y": round(float(y), 2),
            "level": names[label],
            "picture": i,
            **{who: names[found[i]] for who, found in answers.items()},
        }
        for i, ((x, y), label) in enumerate(zip(values[role], values["labels"], strict=True))
    ]
    axis = alt.Axis(labels=False, ticks=False, grid=False, domain=False, title=None)
    chart = (
        marks.chart_of()
        .mark_point(filled=True, size=24)
        .encode(
            x=alt.X("x:Q", axis=axis, scale=alt.Scale(zero=False)),
            y=alt.Y("y:Q", axis=axis, scale=alt.Scale(zero=False)),
            color=marks.colour(styles),
            shape=marks.shape(styles),
            opacity=marks.picked(0.8),
            tooltip=[
                alt.Tooltip("image:N"),
                alt.Tooltip("level:N", title="label"),
                *(alt.Tooltip(f"{who}:N", title=f"{who} says") for who in answers),
            ],
        )
        .add_params(marks.pick())
    )
    frame = alt.ViewBackground(stroke="var(--line)")
    return marks.spec(chart.properties(view=frame), rows, height=260)


def number(value: Any) -> float | None:
    """A finite number, or nothing."""
    return round(float(value), 4) if np.isfinite(value) else None
