"""Rendering of a page as a single HTML file that works offline."""

import importlib.util
import json
import pathlib
from typing import Any

from experiments.page import elements
from rrd_jax import errors

_TEMPLATES = pathlib.Path(__file__).parent / "templates"
_LIBRARIES = ("altair", "jinja2", "vl_convert")


def check_libraries(*names: str) -> None:
    """Raises an UnavailableError for the first library that is not installed."""
    for name in names or _LIBRARIES:
        if importlib.util.find_spec(name) is None:
            raise errors.UnavailableError(
                f"pages need {name}, which is not installed; run `pip install 'rrd_jax[studies]'`"
            )


def render(page: elements.Page) -> str:
    """Returns the HTML of a page.

    Raises:
      UnavailableError: a library is not installed.
    """
    check_libraries()
    import jinja2
    import vl_convert

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"spec": _json, "bar": bar, "kind": lambda part: type(part).__name__}
    contents = [part for section in page.sections for part in section.elements]
    has_charts = any(isinstance(part, elements.Figure) for part in contents)
    return environment.get_template("page.html.j2").render(
        page=page,
        style=(_TEMPLATES / "page.css").read_text(encoding="utf-8"),
        script=(_TEMPLATES / "page.js").read_text(encoding="utf-8"),
        # Vega, Vega-Lite and Vega-Embed.
        bundle=vl_convert.javascript_bundle() if has_charts else "",
    )


def _json(value: Any) -> str:
    """Returns JSON that is safe in a script element."""
    text = json.dumps(rounded(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def rounded(value: Any) -> Any:
    """Rounds all numbers to five significant digits; replaces non-finite numbers by None."""
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


def bar(table: elements.Table, column: int) -> dict[str, float] | None:
    """Returns offset and scale that map a column's intervals to a width of 100.

    The width contains all means and 0; wider intervals are cut off. A column without intervals
    returns None.
    """
    means = [row[column].interval[1] for row in table.rows if row[column].interval]
    if not means:
        return None
    low, high = min(0.0, *means), max(0.0, *means)
    margin = 0.25 * (high - low) or 1.0
    scale = 100 / (high - low + 2 * margin)
    return {"low": low - margin, "scale": scale, "zero": (margin - low) * scale}
