"""What charts share: how they become JSON, and how levels are drawn in them."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.page import look

Values = list[dict[str, Any]]


def chart_of() -> Any:
    """A chart whose data `spec` puts in place: Altair would look at each number several times."""
    import altair as alt

    return alt.Chart(alt.NamedData(name="numbers"))


def spec(chart: Any, values: Values, height: int) -> dict[str, Any]:
    """A chart as JSON, as wide as its place; without a theme, since the page has its own.

    Args:
      chart: made of `chart_of`.
      values: its data, a row each; lists are rows too, as `transform_flatten` takes them.
      height: in pixels.
    """
    content = chart.properties(width="container", height=height).to_dict(validate=False)
    for name in ("config", "$schema", "datasets"):
        content.pop(name, None)
    return content | {"data": {"values": values}}


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
