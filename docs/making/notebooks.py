"""Converts notebooks to Markdown pages with their text, code, outputs and figures."""

import base64
import json
import pathlib
from typing import Any, NamedTuple


class Notebook(NamedTuple):
    """The page of a notebook.

    Attributes:
      text: Markdown of the page.
      pictures: PNG data of the figures, by file name relative to the page.
    """

    text: str
    pictures: dict[str, bytes]


def read(path: pathlib.Path) -> Notebook:
    """Returns the page of a notebook, with a link to the notebook below the title."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts, pictures = [], {}
    for cell in cells:
        source = _joined(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code" and source:
            parts.append(_fenced(source, "python"))
            for output in cell.get("outputs", ()):
                name = f"{path.stem}_{len(pictures)}.png"
                parts.append(_output(output, name, pictures))
    title, _, rest = "\n\n".join(filter(None, parts)).partition("\n")
    note = f'[Download the notebook]({path.name}){{ download="{path.name}" }} with its outputs.'
    return Notebook(f"{title}\n\n{note}\n{rest}\n", pictures)


def _output(output: dict[str, Any], name: str, pictures: dict[str, bytes]) -> str:
    if output["output_type"] == "stream":
        return "" if output["name"] == "stderr" else _fenced(_joined(output["text"]), "text")
    data = output.get("data", {})
    if "image/png" in data:
        pictures[name] = base64.b64decode(_joined(data["image/png"]))
        return f"![Figure of the code above]({name})"
    return _fenced(_joined(data["text/plain"]), "text") if "text/plain" in data else ""


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def _fenced(text: str, language: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```" if text.strip() else ""
