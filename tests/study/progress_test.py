import json

import pytest

from experiments.study import attempts, design, plan, progress
from rrd_jax.terminal import console


@pytest.fixture
def made(tmp_path):
    grid = design.Grid(
        name="methods",
        question="Which is best?",
        config="configs/digits.py",
        argument="smoke",
        factors=(design.methods("ce", "kd"),),
        seeds=(0, 1),
        fields={"train.epochs": 4},
    )
    return plan.make(design.Study("mine", "Mine", (grid,)), tmp_path, platform="cpu")


def _folder(made, i):
    folder = made.folder / "runs" / list(made.runs)[i]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _advance(folder, epochs, seconds=None):
    rows = [{"epoch": i + 1, "step": i, "test/top1": 90.0 + i} for i in range(epochs)]
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text + '{"epoch": 9')  # as a kill leaves it
    if seconds:
        (folder / "results.json").write_text(json.dumps([{"seconds": seconds}]))


@pytest.fixture
def shown(monkeypatch):
    """The parts of the progress line, as it was shown last."""
    parts = []
    monkeypatch.setattr(console, "progress", lambda label, new: parts.__setitem__(slice(None), new))
    monkeypatch.setattr(progress, "_INTERVAL", 0)
    monkeypatch.setattr(progress, "_SHARE", 1e9)
    return parts


def test_a_line_for_each_run_that_ends_and_one_for_what_goes_on(made, shown, capsys):
    _advance(_folder(made, 0), 4)  # of an earlier start
    seen = progress.Progress(made, "first")
    seen.update()
    assert shown == ["1 of 4 runs", "24% of all epochs"]
    _advance(_folder(made, 1), 3)
    seen.update()
    assert shown[:2] == ["1 of 4 runs", "41% of all epochs"]
    assert shown[2].endswith(" left")
    assert shown[3] == "kd, seed 0: 3 of 4 epochs"
    assert not capsys.readouterr().out
    _advance(_folder(made, 1), 4)
    attempts.keep_failure(_folder(made, 2), "first", ValueError("of no use"))
    attempts.keep_failure(_folder(made, 3), "an earlier one", ValueError("of no use"))
    teacher = made.folder / next(iter(made.teachers()))
    teacher.mkdir(parents=True)
    _advance(teacher, 1)
    seen.update()
    seen.update()
    assert capsys.readouterr().out.splitlines() == [
        "[2 of 4] kd, seed 0  test top-1 93.00",
        "[3 of 4] ce, seed 1  failed: ValueError: of no use",
        "[teacher] resnet8x4, seed 0  test top-1 90.00",
    ]


def test_a_dry_run_says_what_is_there_and_how_long_the_rest_takes(made, capsys):
    progress.print_plan(made, jobs=2)
    said = capsys.readouterr().out
    assert "methods/kd/seed1" in said
    assert "4 runs in " in said
    assert "0 begun or finished, 0 failed" in said
    assert "try --max_runs=1" in said
    _advance(_folder(made, 0), 4, seconds=40)
    _advance(_folder(made, 1), 2)
    attempts.keep_failure(_folder(made, 2), "first", ValueError("of no use"))
    progress.print_plan(made, jobs=2)
    said = capsys.readouterr().out
    assert "2 begun or finished, 1 failed" in said
    assert "about 0:50 left, 2 at a time: 10 s per epoch, 10 epochs" in said


def test_what_failed_is_told_once_for_all_runs_that_failed_so(made, capsys):
    made.write()
    for i in range(4):
        attempts.keep_failure(_folder(made, i), "first", ValueError("of no use"))
    assert progress.print_results(made) == 4
    said = capsys.readouterr().out
    assert said.count("of no use") == 1
    assert "methods/ce/seed0, methods/kd/seed0, methods/ce/seed1 and 1 more" in said
