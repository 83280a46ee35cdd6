"""Contents of pages and of files for papers."""

import json
import re
import subprocess
import sys

import pytest

from experiments.page import (
    answers,
    charts,
    html,
    memories,
    networks,
    papers,
    results,
    run_page,
    study_page,
    styles,
    tables,
)
from experiments.page.elements import Cell, Figure, Table
from experiments.study import records, statistics
from rrd_jax import errors
from tests.page import synthetic

pytest.importorskip("altair")
VALUES = {
    "ce": [90.0, 90.2, 90.1, 90.3],
    "rrd": [92.1, 92.2, 92.2, 92.5],
    "kd": [90.1, 90.1, 90.3, 90.2],
    "at": [88.0, 88.3, 88.0, 88.1],
}


def _results(folder, *arguments, **options):
    record = records.read(synthetic.small(folder, *arguments, **options))
    return results.compute(record.grids[0])


@pytest.mark.parametrize(("best", "worst"), [("rrd", "at"), ("at", "rrd")])
def test_the_answer_names_better_worse_and_indistinguishable_levels(tmp_path, best, worst):
    values = VALUES | {best: VALUES["rrd"], worst: VALUES["at"]}
    answer = answers.answer(_results(tmp_path, values, "ce"))
    assert f"{best} has the highest mean: 92.25 ± 0.17 % (n = 4)." in answer
    assert f"better: {best} (+2.10)" in answer
    assert f"worse: {worst} (−2.05)" in answer
    assert "not distinguishable: kd" in answer
    assert "is detected in 4 of 5 studies" in answer


def test_one_seed_has_no_verdict(tmp_path):
    answer = answers.answer(_results(tmp_path, {"ce": [90.0], "rrd": [99.0]}, "ce"))
    assert "99.00 % (n = 1)" in answer
    assert "no verdict (one seed): rrd" in answer
    assert "better" not in answer


def test_failed_and_missing_runs_are_counted_and_listed(tmp_path):
    values = VALUES | {"kd": VALUES["kd"][:2]}
    synthetic.small(tmp_path, values, "ce", failed=("methods-at-seed0",))
    page = study_page.page(records.read(tmp_path))
    assert "3 of 16 runs have no value." in page.sections[0].answer
    elements = page.sections[-1].elements
    cells = [[cell.text for cell in row] for table in elements for row in table.rows]
    assert ["methods/at/seed0", "failed", "7 of 40", "the loss is nan"] in cells
    assert ["methods/kd/seed3", "missing", "0 of 40"] in cells


def test_an_unfinished_study_has_a_page(tmp_path):
    synthetic.small(tmp_path, {"ce": [], "rrd": [1.0]}, "ce", failed=("methods-rrd-seed0",))
    page = study_page.page(records.read(tmp_path))
    assert "0 of 2 runs finished, 1 failed, 1 missing" in page.sections[0].answer
    assert "No run has finished" in html.render(page)


def test_the_table_contains_the_values_of_the_statistics(tmp_path):
    result = _results(tmp_path, VALUES, "ce", published=[[["rrd"], 91.5]])
    (block,) = result.blocks
    table = tables.levels(block, result, "x")
    rows = {row[0].text: dict(zip(table.header, row, strict=True)) for row in table.rows}
    values = {name: row.values for name, row in block.rows.items()}
    difference = statistics.differences(values, "ce")["rrd"]
    cell = rows["rrd"]["difference to ce (95 % interval)"]
    assert cell.interval == (difference.low, difference.mean, difference.high)
    assert cell.text == f"+2.10 (+{difference.low:.2f} to +{difference.high:.2f})"
    assert rows["rrd"]["p (Holm)"].value == difference.p_adjusted
    assert rows["rrd"]["verdict"].text == "better"
    assert rows["rrd"]["difference to published"].text == "+0.75"
    assert rows["ce"]["published"].text == "–"
    assert [row[0].text for row in table.rows] == ["rrd", "kd", "ce", "at"]


@pytest.mark.long
def test_files_for_papers_contain_the_values(tmp_path):
    folder = synthetic.small(tmp_path / "study", VALUES, "ce")
    paths = papers.write(study_page.page(records.read(folder)), tmp_path / "paper")
    figures = {f"methods-{x}.{form}" for x in ("comparison", "epochs") for form in papers.FORMATS}
    assert {path.name for path in paths} == figures | {"methods-table.md", "methods-table.tex"}
    assert all(path.stat().st_size > 500 for path in paths)
    svg = (tmp_path / "paper" / "methods-epochs.svg").read_text()
    assert "var(--" not in svg
    assert {">rrd<", "#0072b2"} <= {text for text in (">rrd<", "#0072b2") if text in svg}
    markdown = (tmp_path / "paper" / "methods-table.md").read_text()
    assert "| rrd    | 4     | 92.25 ± 0.17 " in markdown
    latex = (tmp_path / "paper" / "methods-table.tex").read_text()
    assert r"rrd & 4 & 92.25 $\pm$ 0.17 & " in latex
    assert latex.count(r"\\") == 1 + len(VALUES)


def test_latex_and_markdown_escape_names():
    table = Table("t", "", ("~^\\",), ((Cell("a_b & 50 %|#{x}"),),))
    assert r"a\_b \& 50 \%|\#\{x\}" in tables.latex(table)
    assert r"\textasciitilde{}\textasciicircum{}\textbackslash{}" in tables.latex(table)
    assert "50 %\\|#" in tables.markdown(table)


def test_names_that_look_like_html_are_escaped(tmp_path):
    synthetic.small(tmp_path, {"</script><b>x": [90.0, 91.0], "ce": [90.0, 90.5]}, "ce")
    assert "<b>x" not in html.render(study_page.page(records.read(tmp_path)))


def test_numbers_are_short_and_finite():
    values = {"x": [1.23456789, 2.0, float("nan"), float("inf")]}
    assert html.rounded(values) == {"x": [1.2346, 2, None, None]}


def test_a_missing_library_is_named():
    with pytest.raises(errors.UnavailableError, match=r"nowhere.*pip install 'rrd_jax\[studies\]'"):
        html.check_libraries("nowhere")


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--output=x.html"], 1, "--study=W"),
        (["--study=a", "--workdir=b", "--output=x"], 1, "--study=W"),
        (["--study=nowhere"], 1, "--output=report.html"),
        (["--study=nowhere", "--output=x.html"], 2, "nowhere is not the folder of a study"),
        (["--workdir=nowhere", "--output=x.html"], 2, "nowhere is not the workdir of a run"),
    ],
    ids=["none", "both", "no output", "no study", "no run"],
)
def test_invalid_flags_are_refused_with_one_line(commands, flags, code, message):
    outcome = commands.run(*flags, module="experiments.page")
    assert outcome.code == code
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.long
def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    folder = synthetic.small(tmp_path / "study", {"ce": [90.0]})
    command = [sys.executable, "-m", "experiments.page", f"--study={folder}"]
    done = subprocess.run([*command, f"--output={tmp_path}"], capture_output=True, text=True)
    assert done.returncode == 74
    assert "cannot be written (Is a directory); pass another --output" in done.stderr


def test_damaged_rows_are_ignored(tmp_path):
    synthetic.small(tmp_path, VALUES, "ce")
    path = tmp_path / "runs" / "methods-ce-seed0" / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[-1]["test/top1"] = float("nan")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"epoch"')
    result = results.compute(records.read(tmp_path).grids[0])
    assert result.blocks[0].rows["ce"].last.n == 3


def _run(folder, rows, **fields):
    config = {"name": "made", "seed": 0, "method": "rrd", **fields}
    config["train"] = {"epochs": len(rows), **fields.get("train", {})}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    lines = (json.dumps({"epoch": i + 1, **row}) for i, row in enumerate(rows))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return run_page.read(folder)


def test_the_page_of_a_run_without_labels_has_its_loss_and_alignment(tmp_path):
    references = {"teacher_probe": 95.0, "random_probe": 60.0, "teacher_deviation": 0.9}
    rows = []
    for i in range(3):
        losses = {"test/loss": 3.0 - i, "train/loss": 3.0, "train/loss/rrd": 3.0}
        values = {"neighbours_10": 40.0, "cka": 0.5 + 0.01 * i, "probe": 80.0 + i, "knn_10": 70.0}
        proof = {f"proof/{name}": value for name, value in (values | references).items()}
        rows.append(losses | (proof if i != 1 else {}))
    run = _run(tmp_path / "run", rows)
    panels = run_page.alignment_panels(run.student)
    levels = {curve["level"]: curve["value"][-1] for curve in panels["linear probe top-1 (%)"]}
    assert levels == {"student": 82.0, "random weights": 60.0, "teacher": 95.0}
    (curve,) = panels["CKA"]
    assert (curve["epoch"], curve["value"]) == ([1, 3], [0.5, 0.52])
    page = run_page.page(run)
    (section,) = page.sections
    assert "After epoch 3 of 3, the held-out loss is 1.0000" in section.answer
    names = {part.name for part in section.elements if isinstance(part, Figure | Table)}
    assert {"run-proof", "run-losses"} <= names
    assert "run-accuracy" not in names
    assert "10 nearest" in html.render(page)


def test_the_page_of_a_run_with_several_teachers_has_the_values_of_each(tmp_path):
    early = {f"proof/cka[{i}]": 0.5 + i / 10 for i in range(2)} | {"proof/cka": 0.4}
    late = {f"test/loss/embed[{i}]": 2.0 + i for i in range(2)}
    models = [{"model": "big"}, {"model": "bigger"}]
    _write(tmp_path / "run" / "model.json", {"training": {"teachers": models}})
    run = _run(tmp_path / "run", [early | {"test/loss": 3.0}, late | {"test/loss": 2.5}])
    (section,) = run_page.page(run).sections
    tables = {part.name: part for part in section.elements if isinstance(part, Table)}
    assert [[cell.text for cell in row[1:]] for row in tables["run-teachers"].rows] == [
        ["big", "2", "0.5"],
        ["bigger", "3", "0.6"],
    ]


def test_the_page_of_a_run_with_labels_has_its_accuracy(tmp_path):
    run = _run(tmp_path / "run", [{"test/top1": 50.0, "train/top1": 60.0, "train/loss": 1.0}])
    (section,) = run_page.page(run).sections
    names = {part.name for part in section.elements if isinstance(part, Figure | Table)}
    assert {"run-accuracy", "run-losses", "run-values"} == names
    assert "test top-1 is 50.00 %" in section.answer


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _teacher(folder, source):
    """Writes the teacher's own run, whose best epoch is not its last, and the student's model."""
    rows = [{"epoch": i + 1, "step": 10 * (i + 1), "test/top1": x} for i, x in enumerate((50, 40))]
    lines = [json.dumps(row | {"best/top1": 50, "best/epoch": 1}) + "\n" for row in rows]
    _write(folder / "teacher" / "model.json", {"model": "big", "training": {"parameters": 400}})
    (folder / "teacher" / "metrics.jsonl").write_text("".join(lines))
    teachers = [{"model": "big", "checkpoint": f"{folder / 'teacher'}{source}"}]
    training = {"parameters": 100, "teachers": teachers}
    _write(folder / "run" / "model.json", {"model": "small", "training": training})


@pytest.mark.parametrize(("source", "top1"), [("@best", 50.0), ("", 40.0), ("@20", 40.0)])
def test_the_teacher_has_one_accuracy_that_of_the_checkpoint(tmp_path, source, top1):
    _teacher(tmp_path, source)
    page = run_page.page(_run(tmp_path / "run", [{"test/top1": 45.0}]))
    (section,) = page.sections
    change = f"5.00 points {'below' if top1 == 50 else 'above'} the teacher"
    assert f"{change} (big from {tmp_path / 'teacher'}{source}), {top1:.2f} %" in section.answer
    assert "4 times fewer than the teacher's 400 parameters" in section.answer
    elements = {part.name: part for part in section.elements if isinstance(part, Figure | Table)}
    (line,) = [
        row
        for row in elements["run-accuracy"].charts[0].spec["data"]["values"]
        if row["level"] == "teacher"
    ]
    assert line["value"] == [top1, top1]
    table = elements["run-values"]
    rows = {row[0].text: dict(zip(table.header, row, strict=True)) for row in table.rows}
    assert rows["teacher"]["test top-1 (%)"].value == top1
    assert rows["teacher"]["weights"].text == f"{tmp_path / 'teacher'}{source}"


def test_the_results_of_a_run_decide_over_the_metrics_of_its_teacher(tmp_path):
    _teacher(tmp_path, "@best")
    stored = {"label": "teacher", "top1": 48.0, "parameters": 800}
    _write(tmp_path / "run" / "results.json", [stored, {"label": "distilled"}])
    (teacher,) = networks.teachers_of(tmp_path / "run")
    assert (teacher.top1, teacher.parameters) == (48.0, 800)


def _axes(spec, name):
    return [layer["encoding"][name] for layer in spec["layer"] if "axis" in layer["encoding"][name]]


@pytest.mark.parametrize("epochs", [1, 2, 3, 30, 240])
def test_axes_show_all_values_with_whole_epochs(tmp_path, epochs):
    rows = [{"test/top1": 100 * (1 - 0.5**i)} for i in range(epochs)]
    run = _run(tmp_path / "run", rows)
    values = charts.run_values([("student", run.student)], "test/top1")
    spec = charts.learning_curves(values, "top-1", styles.of_levels(["student"]), {"full": 1.5})
    low, high = spec["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert low < min(values[0]["value"]) <= max(values[0]["value"]) < high
    (ticks, *_) = [axis["axis"]["values"] for axis in _axes(spec, "x")]
    assert all(isinstance(tick, int) and 1 <= tick <= epochs for tick in ticks)
    assert 1 <= len(ticks) <= 10


def test_a_memory_that_fills_is_marked_and_explained(tmp_path):
    fields = {"train": {"batch_size": 10}, "objectives": {"rrd": {"queue_size": 40, "weight": 1}}}
    rows = [{"step": 2 * (i + 1), "test/top1": 1.0, "train/loss": 1.0 + i} for i in range(3)]
    run = _run(tmp_path / "run", rows, **fields)
    (section,) = run_page.page(run).sections
    (losses,) = [part for part in section.elements if getattr(part, "name", "") == "run-losses"]
    assert "memory of rrd (40 rows) is full after 2 epochs" in losses.caption
    marks = [row for row in losses.charts[0].spec["data"]["values"] if "mark" in row]
    assert [row["epoch"] for row in marks] == [[2.0]]
    (memory,) = memories.of_run({**run.config, "objectives.rrd.queue_size": 120}, run.student.rows)
    assert "never full: the run replaces 50% of it" in memories.describe([memory], 3)
    assert memories.of_run({**run.config, "objectives.rrd.queue_size": 20}, run.student.rows) == []


def test_random_images_are_called_random(tmp_path):
    run = _run(tmp_path / "run", [{"test/top1": 50.0}], data={"mock_examples": 24})
    page = run_page.page(run)
    assert page.about.startswith("The images are random")
    folder = synthetic.small(tmp_path / "study", {"ce": [90.0]})
    assert "random" not in study_page.page(records.read(folder)).title
    _write(folder / "runs" / "methods-ce-seed0" / "config.json", {"data": {"mock_examples": 24}})
    page = study_page.page(records.read(folder))
    assert "(random images)" in page.title
    assert page.about.startswith("The images are random")


def test_a_column_named_epoch_holds_epochs_and_empty_columns_are_omitted(tmp_path):
    result = _results(tmp_path, VALUES, "ce")
    table = tables.levels(result.blocks[0], result, "x")
    best = {row[table.header.index("best epoch")].text for row in table.rows}
    assert all(re.fullmatch(r"\d+( to \d+)?", text) for text in best)
    assert Table("t", "", ("a", "b", "c"), ((Cell("–"), Cell("–"), Cell("1")),)).header == (
        "a",
        "c",
    )
