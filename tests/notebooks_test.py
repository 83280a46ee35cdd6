"""The notebooks of docs/tutorials: stored outputs, links, and execution."""

import json
import pathlib
import re

import pytest

_FOLDER = pathlib.Path(__file__).parent.parent / "docs" / "tutorials"
_NOTEBOOKS = sorted(_FOLDER.glob("*.ipynb"))
_for_each_notebook = pytest.mark.parametrize("path", _NOTEBOOKS, ids=lambda path: path.stem)


def _code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _output_kinds(cell):
    """Returns the kinds of a cell's outputs, without their content."""
    kinds = []
    for output in cell["outputs"]:
        kind = (output["output_type"], output.get("name"), *sorted(output.get("data", {})))
        # A stream may be stored in several parts.
        kinds += [kind] if kind not in kinds else []
    return kinds


@_for_each_notebook
def test_a_stored_notebook_was_executed_in_order_without_warnings(path):
    cells = _code_cells(json.loads(path.read_text()))
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


@_for_each_notebook
def test_links_of_a_notebook_lead_to_files(path):
    notebook = json.loads(path.read_text())
    text = "\n".join(
        "".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"
    )
    links = re.findall(r"\]\(([^)#:]+)[^)]*\)", text)
    assert links
    assert not [link for link in links if not (path.parent / link).exists()]


@pytest.mark.long
@_for_each_notebook
def test_a_notebook_runs_with_the_kinds_of_outputs_that_are_stored(path, monkeypatch):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    from experiments import notebooks

    # Training takes longer than compilation here, unlike in other tests.
    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS", raising=False)
    stored = _code_cells(json.loads(path.read_text()))
    for cell, stored_cell in zip(_code_cells(notebooks.execute(path)), stored, strict=True):
        assert _output_kinds(cell) == _output_kinds(stored_cell), cell["source"]
