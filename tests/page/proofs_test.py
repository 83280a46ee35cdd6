"""What the page of a run says of its embeddings."""

import json

import pytest

from experiments.page import html, proofs, single
from experiments.page.parts import Figure, Table


def _run(folder, rows):
    config = {"name": "made", "seed": 0, "train": {"epochs": len(rows)}, "method": "rrd"}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    lines = (json.dumps({"epoch": i + 1, **row}) for i, row in enumerate(rows))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return single.read(folder)


def _row(i, **more):
    figures = {"neighbours_10": 40.0 + i, "cka": 0.5 + 0.01 * i, "probe": 80.0 + i, "knn_10": 70.0}
    others = {"teacher_probe": 95.0, "random_probe": 60.0, "teacher_deviation": 0.9}
    return {f"proof/{name}": value for name, value in (figures | others | more).items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run without labels that is looked at in the first and the last of three epochs."""
    losses = [{"test/loss": 3.0 - i, "train/loss": 3.0, "train/loss/rrd": 3.0} for i in range(3)]
    rows = [losses[0] | _row(0), losses[1], losses[2] | _row(2, random_cka=0.2)]
    return _run(tmp_path_factory.mktemp("page") / "run", rows)


def test_figures_stand_between_floor_and_ceiling(run):
    table = proofs.table(run.entry)
    assert [row[0].text for row in table.rows] == ["random weights", "student", "teacher"]
    column = table.header.index("probe top-1")
    assert [row[column].text for row in table.rows] == ["60.00", "82.00", "95.00"]
    assert table.rows[0][table.header.index("CKA")].text == "0.200"
    panels = proofs.panels(run.entry)
    assert list(panels)[2] == "nearest images' class, top-1 (%)"
    (values,) = (v for v in panels["CKA"] if v["level"] == "student")
    assert (values["epoch"], values["value"]) == ([1, 3], [0.5, 0.52])


@pytest.mark.long
def test_the_page_shows_them_and_the_loss_without_labels(run):
    pytest.importorskip("altair")
    page = single.page(run)
    (section,) = page.sections
    assert "After epoch 3 of 3, the loss of held-out images is 1.0000" in section.answer
    names = [part.name for part in section.parts if isinstance(part, Figure | Table)]
    assert {"run-proof", "run-losses"} <= set(names)
    assert "run-accuracy" not in names
    assert "10 nearest" in html.render(page)


def test_a_run_without_them_has_no_such_parts(tmp_path):
    pytest.importorskip("altair")
    run = _run(tmp_path / "run", [{"test/top1": 50.0, "train/top1": 60.0, "train/loss": 1.0}])
    assert proofs.table(run.entry) is None
    (section,) = single.page(run).sections
    assert not [p for p in section.parts if getattr(p, "name", "").endswith("proof")]
