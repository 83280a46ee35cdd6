"""A page as one file of HTML, with everything that it needs in it."""

import importlib.util
import json
import pathlib
import statistics
from typing import Any

from experiments.page import parts
from rrd_jax import errors

_TEMPLATES = pathlib.Path(__file__).parent / "templates"
LIBRARIES = ("altair", "jinja2", "vl_convert")


def check_libraries(*names: str) -> None:
    """Raises an UnavailableError for the first library that is not installed."""
    for name in names or LIBRARIES:
        if importlib.util.find_spec(name) is None:
            raise errors.UnavailableError(
                f"pages need {name}, which is not installed: pip install 'rrd_jax[studies]'"
            )


def render(page: parts.Page) -> str:
    """The text of the file.

    Args:
      page: what it shows.

    Raises:
      UnavailableError: a library is not installed.
    """
    check_libraries()
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["spec"] = _spec
    environment.filters["bar"] = bar
    environment.filters["whisker"] = whisker
    environment.filters["kind"] = lambda part: type(part).__name__
    style, script = (
        (_TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
    )
    has_charts = any(
        isinstance(part, parts.Figure) for section in page.sections for part in section.parts
    )
    return environment.get_template("page.html.j2").render(
        page=page, style=style, script=script, bundle=_bundle() if has_charts else ""
    )


def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed, as vl-convert carries them."""
    import vl_convert

    return vl_convert.javascript_bundle()


def _spec(spec: Any) -> str:
    """JSON that can stand within a script element, with no more digits than can be seen."""
    text = json.dumps(rounded(spec), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def rounded(value: Any) -> Any:
    """The same with numbers of five significant digits; nothing in the place of NaN."""
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            return None
        short = float(f"{value:.5g}")
        return int(short) if short == int(short) and abs(short) < 1e9 else short
    if isinstance(value, dict):
        return {name: rounded(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(entry) for entry in value]
    return value


def bar(table: parts.Table, column: int) -> dict[str, Any] | None:
    """How a column's intervals become lengths: offset and per-point scale in a box of 100.

    Where a few means are far from the others, the box is of these.
    """
    intervals = [row[column].interval for row in table.rows if row[column].interval]
    if not intervals:
        return None
    lows, means, highs = zip(*intervals, strict=True)
    low, high = (min(0.0, *lows), max(0.0, *highs))
    if len(means) > 5:
        first, _, third = statistics.quantiles(means, n=4)
        reach = 4 * max(third - first, 0.01)
        low, high = min(0.0, max(low, first - reach)), max(0.0, min(high, third + reach))
    scale = 96 / (high - low) if high > low else 1.0
    return {"low": low, "scale": scale, "zero": 2 + (0 - low) * scale}


def whisker(interval: tuple[float, float, float], scale: dict[str, Any]) -> dict[str, Any]:
    """An interval in the box of `bar`: its ends, and its mean, or an arrow where that is beyond."""
    low, middle, high = (2 + (x - scale["low"]) * scale["scale"] for x in interval)
    beyond = "left" if middle < 1.9 else "right" if middle > 98.1 else ""
    ends = {"start": min(max(low, 0), 100), "end": max(min(high, 100), 0)}
    return ends | {"middle": middle, "beyond": beyond}
