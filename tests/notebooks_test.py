"""The notebooks of docs/tutorials: what is stored in them, and that they run."""

import json
import pathlib
import re

import pytest

_FOLDER = pathlib.Path(__file__).parent.parent / "docs" / "tutorials"
_NOTEBOOKS = sorted(_FOLDER.glob("*.ipynb"))
_each = pytest.mark.parametrize("path", _NOTEBOOKS, ids=lambda path: path.stem)


def _code(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _shown(cell):
    """What a cell shows, without its numbers: the kinds of its outputs."""
    kinds = []
    for output in cell["outputs"]:
        kind = (output["output_type"], output.get("name"), *sorted(output.get("data", {})))
        kinds += [kind] if kind not in kinds else []  # a stream may come in parts
    return kinds


@_each
def test_a_stored_notebook_was_executed_from_top_to_bottom_without_noise(path):
    cells = _code(json.loads(path.read_text()))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for output in outputs:
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr"
        text = json.dumps(
            {k: v for k, v in output.get("data", {}).items() if k.startswith("text/")}
        )
        text += "".join(output.get("text", []))
        assert not re.search(r"/tmp|/home|/root|/usr|[Ww]arning", text)
    assert path.stat().st_size < 150_000


@_each
def test_links_of_a_notebook_lead_to_files(path):
    notebook = json.loads(path.read_text())
    text = "\n".join(
        "".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"
    )
    links = re.findall(r"\]\(([^)#:]+)[^)]*\)", text)
    assert links
    assert not [link for link in links if not (path.parent / link).exists()]


@pytest.mark.long
@_each
def test_a_notebook_runs_and_shows_what_is_stored(path, monkeypatch):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    from experiments import notebooks

    # It trains for longer than it compiles, unlike other tests.
    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS", raising=False)
    stored = _code(json.loads(path.read_text()))
    for cell, before in zip(_code(notebooks.execute(path)), stored, strict=True):
        assert _shown(cell) == _shown(before), cell["source"]
