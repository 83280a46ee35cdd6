"""What a page says of a study, and what its files for papers hold."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from experiments.page import found, html, papers, results, study, tables
from experiments.page.parts import Cell, Folded, Section, Table, distinct
from experiments.study import records, statistics
from rrd_jax import errors
from tests.page import made

FIGURES = {
    "ce": [90.0, 90.2, 90.1, 90.3],
    "rrd": [92.1, 92.2, 92.2, 92.5],
    "kd": [90.1, 90.1, 90.3, 90.2],
    "at": [88.0, 88.3, 88.0, 88.1],
}


def _results(folder, *arguments, **options):
    return results.of(records.read(made.small(folder, *arguments, **options)).grids[0])


def _command(*flags):
    return subprocess.run(
        [sys.executable, "-m", "experiments.page", *flags],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_answer_names_what_is_better_worse_and_not_distinguishable(tmp_path):
    answer = found.answer(_results(tmp_path, FIGURES, "ce"))
    assert "The highest mean is that of rrd, 92.25 ± 0.17 % (n = 4)." in answer
    assert "Better than ce: rrd (+2.10) points" in answer
    assert "not distinguishable from ce: kd" in answer
    assert "worse: at (−2.05) points" in answer


def test_the_answer_follows_the_numbers(tmp_path):
    swapped = FIGURES | {"rrd": FIGURES["at"], "at": FIGURES["rrd"]}
    answer = found.answer(_results(tmp_path, swapped, "ce"))
    assert "that of at, 92.25" in answer
    assert "worse: rrd (−2.05)" in answer


def test_few_seeds_are_said_to_show_only_large_differences(tmp_path):
    figures = {
        "ce": [90.0, 90.4, 90.1],
        "rrd": [91.0, 91.2, 91.3],
        **{f"m{i}": [89.5 + 0.1 * i, 90.9, 90.2 - 0.2 * i] for i in range(8)},
    }
    of = _results(tmp_path, figures, "ce")
    answer, differences = found.answer(of), of.blocks[0].differences
    assert differences["rrd"].verdict == "not distinguishable"
    assert differences["rrd"].low > 0
    assert "Not distinguishable from ce: 9 others." in answer
    assert "By itself the 95 % interval of rrd (+1.00) leaves out 0" in answer
    points = float(np.median([difference.detectable for difference in differences.values()]))
    said = f"{points:.0f}" if points >= 10 else f"{points:.2g}"
    assert answer.endswith(f"shows in 4 of 5 studies only if it is about {said} points.")


def test_the_best_cell_of_a_map_is_compared_as_one_that_was_picked(tmp_path):
    record = records.read(made.study(tmp_path))
    grid = next(grid for grid in record.grids if grid.name == "temperatures")
    answer = found.answer(results.of(grid))
    assert "of the 15 others" in answer
    assert "after Bonferroni over all 120 pairs, since the highest was picked" in answer


def test_a_mean_far_from_the_others_does_not_flatten_the_bars():
    intervals = [(x - 0.5, x, x + 0.5) for x in (-20.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)]
    rows = tuple((Cell("", x[1], x),) for x in intervals)
    scale = html.bar(Table("t", "", ("d",), rows), 0)
    assert html.whisker(intervals[0], scale)["beyond"] == "left"
    near = [html.whisker(interval, scale) for interval in intervals[1:]]
    assert not any(found["beyond"] for found in near)
    assert near[-1]["middle"] - near[0]["middle"] > 10


def test_one_seed_gives_no_verdict(tmp_path):
    of = _results(tmp_path, {"ce": [90.0], "rrd": [99.0]}, "ce")
    answer = found.answer(of)
    assert "99.00 % (n = 1)" in answer
    assert "No verdict, for want of seeds: rrd." in answer
    assert "better" not in answer.lower()


def test_failed_and_missing_runs_are_counted_and_named(tmp_path):
    figures = FIGURES | {"kd": FIGURES["kd"][:2]}
    made.small(tmp_path, figures, "ce", failed=("methods-at-seed0",))
    page = study.page(records.read(tmp_path))
    assert "3 of 16 runs have no figure." in page.sections[0].answer
    tables_ = page.sections[-1].parts
    cells = [[cell.text for cell in row] for table in tables_ for row in table.rows]
    assert ["methods: at, seed 0", "failed", "7 of 40", "the loss is nan"] in cells
    assert ["methods: kd, seed 3", "missing", "0 of 40", "–"] in cells


@pytest.mark.long
def test_nothing_finished_gives_a_page_that_says_so(tmp_path):
    made.small(tmp_path, {"ce": [], "rrd": [1.0]}, "ce", failed=("methods-rrd-seed0",))
    page = study.page(records.read(tmp_path))
    assert page.sections[0].answer == "Nothing is finished yet: 1 run failed, 1 to come."
    assert "Nothing is finished yet" in html.render(page)


def test_the_table_has_the_figures_of_the_statistics(tmp_path):
    published = [[["rrd"], 91.5]]
    of = _results(tmp_path, FIGURES, "ce", published=published)
    table = tables.levels(of.blocks[0], of, "x")
    rows = {row[0].text: dict(zip(table.header, row, strict=True)) for row in table.rows}
    difference = statistics.differences(
        {row.name: row.values for row in of.blocks[0].rows.values()}, "ce"
    )["rrd"]
    cell = rows["rrd"]["difference to ce (95 % interval)"]
    assert cell.interval == (difference.low, difference.mean, difference.high)
    assert cell.text == f"+2.10 (+{difference.low:.2f} to +{difference.high:.2f})"
    assert rows["rrd"]["p (Holm)"].value == difference.p_adjusted
    assert rows["rrd"]["verdict"].text == "better"
    against = statistics.against_published(of.blocks[0].rows["rrd"].last, 91.5)
    assert rows["rrd"]["ours less published (standard errors)"].text == (
        f"+0.75 (+{against.standard_errors:.1f})"
    )
    assert rows["ce"]["published"].text == "–"
    best_first = [row[0].text for row in table.rows]
    assert best_first == ["rrd", "kd", "ce", "at"]


@pytest.mark.long
def test_files_for_papers_have_the_figures(tmp_path):
    folder = made.small(tmp_path / "study", FIGURES, "ce")
    paths = papers.of_study(records.read(folder), tmp_path / "paper")
    names = {path.name for path in paths}
    figures = {f"methods-{x}.{form}" for x in ("comparison", "epochs") for form in papers.FORMATS}
    assert names == figures | {"methods-table.md", "methods-table.tex"}
    assert all(path.stat().st_size > 500 for path in paths)
    drawn = (tmp_path / "paper" / "methods-comparison.png").stat().st_size
    assert drawn < 120_000  # a README can show it
    markdown = (tmp_path / "paper" / "methods-table.md").read_text()
    assert "| rrd    | 4     | 92.25 ± 0.17 " in markdown
    latex = (tmp_path / "paper" / "methods-table.tex").read_text()
    assert r"rrd & 4 & 92.25 $\pm$ 0.17 & " in latex
    assert latex.count(r"\\") == 1 + len(FIGURES)


def test_latex_and_markdown_take_any_name():
    rows = ((Cell("a_b & 50 %|#{x}"),),)
    table = Table("t", "", ("~^\\",), rows)
    assert r"a\_b \& 50 \%|\#\{x\}" in tables.latex(table)
    assert r"\textasciitilde{}\textasciicircum{}\textbackslash{}" in tables.latex(table)
    assert "50 %\\|#" in tables.markdown(table)


def test_names_that_look_like_html_stay_text(tmp_path):
    made.small(tmp_path, {"</script><b>x": [90.0, 91.0], "ce": [90.0, 90.5]}, "ce")
    text = html.render(study.page(records.read(tmp_path)))
    assert "<b>x" not in text


def test_levels_of_like_names_have_tables_and_anchors_of_their_own():
    parts = [Table(name, "", (), ()) for name in ("a-b", "a-b-2", "a-b")]
    sections = [Section("a-b", "", "", (Folded("", (part,)),)) for part in parts]
    found = distinct(sections)
    names = [section.name for section in found]
    names += [part.tables[0].name for section in found for part in section.parts]
    assert len(set(names)) == 6
    assert names[0] == "a-b"


def test_numbers_are_short_and_finite():
    assert html.rounded({"x": [1.23456789, 2.0, float("nan"), float("inf")]}) == {
        "x": [1.2346, 2, None, None]
    }


def test_a_missing_library_is_named_with_the_way_out():
    with pytest.raises(errors.UnavailableError, match=r"nowhere.*pip install 'rrd_jax\[studies\]'"):
        html.check_libraries("nowhere")


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--output=x.html"], 1, "name a study with --study=W"),
        (["--study=a", "--workdir=b", "--output=x"], 1, "name a study with --study=W"),
        (["--study=nowhere"], 1, "--output=report.html"),
        (["--study=nowhere", "--output=x.html"], 2, "nowhere is not the folder of a study"),
        (["--workdir=nowhere", "--output=x.html"], 2, "nowhere is not the workdir of a run"),
    ],
    ids=["none", "both", "no output", "no study", "no run"],
)
def test_wrong_flags_are_one_line(commands, flags, code, message):
    said = commands.run(*flags, module="experiments.page")
    assert said.code == code
    assert message in said.err
    assert said.err.count("\n") == 1


@pytest.mark.long
def test_an_output_that_cannot_be_written_is_one_line(tmp_path):
    folder = made.small(tmp_path / "study", {"ce": [90.0]})
    said = _command(f"--study={folder}", f"--output={tmp_path}")
    assert said.returncode == 74
    assert "cannot be written (Is a directory); name another --output" in said.stderr


def test_damaged_rows_are_left_out(tmp_path):
    made.small(tmp_path, FIGURES, "ce")
    home = pathlib.Path(tmp_path) / "runs" / "methods-ce-seed0" / "metrics.jsonl"
    rows = [json.loads(line) for line in home.read_text().splitlines()]
    rows[-1]["test/top1"] = float("nan")
    home.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"epoch"')
    of = results.of(records.read(tmp_path).grids[0])
    assert of.blocks[0].rows["ce"].last.n == 3
