"""Figures and tables for papers: PDF, PNG, SVG, LaTeX and Markdown."""

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from experiments.page import html, styles, tables
from experiments.page.elements import Figure, Folded, Page, Table
from rrd_jax import errors
from rrd_jax.run_folder import atomic_write

FORMATS = ("pdf", "png", "svg")
# Width of a single chart in pixels. A chart next to other charts has two thirds of this width.
_WIDTH = 340
_THEME = {
    "background": "white",
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": {"gridColor": "#e3e0d9", "domainColor": "#5d636c", "titleFontWeight": "normal"},
    "legend": {"orient": "top", "title": None, "columns": 6, "symbolSize": 60},
    "title": {"fontSize": 11, "anchor": "start", "fontWeight": "normal"},
}


def write(page: Page, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes all figures and tables of a page and returns the paths.

    Raises:
      DiskError: a file cannot be written.
    """
    import vl_convert

    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for figure in _elements(page, Figure):
            vega = vl_convert.vegalite_to_vega(paper_spec(figure))
            files = {
                "pdf": vl_convert.vega_to_pdf(vega),
                "png": vl_convert.vega_to_png(vega, ppi=150),
                "svg": vl_convert.vega_to_svg(vega).encode(),
            }
            for form, content in files.items():
                paths.append(folder / f"{figure.name}.{form}")
                paths[-1].write_bytes(content)
        for table in _elements(page, Table):
            for form, text in (("md", tables.markdown(table)), ("tex", tables.latex(table))):
                paths.append(folder / f"{table.name}.{form}")
                atomic_write.write_text(paths[-1], text)
    except OSError as error:
        raise errors.DiskError(
            f"{folder} cannot be written ({error.strerror or error}); pass another --figures"
        ) from error
    return paths


def paper_spec(figure: Figure) -> dict[str, Any]:
    """Returns all charts of a figure as one specification, with fixed colors and a legend."""
    width = _WIDTH if len(figure.charts) == 1 else _WIDTH * 2 // 3
    specs = [
        {
            **html.rounded(chart.spec),
            "width": width,
            "height": min(chart.spec["height"], 300),
            **({"title": chart.title} if chart.title else {}),
        }
        for chart in figure.charts
    ]
    for spec in specs:
        # The other charts cannot use the parameters of a part.
        for part in [spec, *spec.get("layer", [])]:
            part.pop("params", None)
            encoding = part.get("encoding", {})
            # The opacity of whole marks takes seconds to rasterize.
            if "opacity" in encoding:
                kind = part.get("mark", {}).get("type")
                channel = "strokeOpacity" if kind == "line" else "fillOpacity"
                encoding[channel] = encoding.pop("opacity")
    selection = {"name": "pick", "value": ""}
    figure_spec = {"concat": specs, "columns": min(3, len(specs)), "config": _THEME}
    figure_spec["params"] = [selection]
    if len(figure.legend) > 1 and not figure.name.endswith("-comparison"):
        # Concatenated charts share their scales and therefore their legends.
        for spec in specs:
            _add_legend(spec)
    text = re.sub(r"var\((--\w+)\)", lambda match: styles.COLORS[match[1]], json.dumps(figure_spec))
    schema = "https://vega.github.io/schema/vega-lite/v6.json"
    return json.loads(text) | {"$schema": schema}


def _add_legend(spec: dict[str, Any]) -> None:
    """Enables the legends of levels; a page draws its legends itself."""
    for part in [spec, *spec.get("layer", [])]:
        for channel in part.get("encoding", {}).values():
            if isinstance(channel, dict) and channel.get("field") == "level" and "scale" in channel:
                channel.pop("legend", None)


def _elements(page: Page, kind: type) -> Iterator[Any]:
    for section in page.sections:
        for element in section.elements:
            for part in element.tables if isinstance(element, Folded) else (element,):
                if isinstance(part, kind):
                    yield part
