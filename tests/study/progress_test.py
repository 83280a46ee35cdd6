import json

import pytest

from experiments.study import attempts, design, plan, progress
from rrd_jax.terminal import console


@pytest.fixture
def planned(tmp_path):
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


def _folder(planned, i):
    folder = planned.folder / "runs" / list(planned.runs)[i]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _advance(folder, epochs, seconds=None):
    rows = [{"epoch": i + 1, "step": i, "test/top1": 90.0 + i} for i in range(epochs)]
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    # A kill can leave an incomplete line.
    (folder / "metrics.jsonl").write_text(text + '{"epoch": 9')
    if seconds:
        (folder / "results.json").write_text(json.dumps([{"seconds": seconds}]))


@pytest.fixture
def progress_line(monkeypatch):
    """The parts of the most recent progress line."""
    parts = []
    monkeypatch.setattr(console, "progress", lambda label, new: parts.__setitem__(slice(None), new))
    monkeypatch.setattr(progress, "_INTERVAL", 0)
    monkeypatch.setattr(progress, "_SHARE", 1e9)
    return parts


def test_each_ended_run_has_a_line_and_current_runs_are_in_the_progress_line(
    planned, progress_line, capsys
):
    # A previous start of the command finished this run.
    _advance(_folder(planned, 0), 4)
    display = progress.Progress(planned, "first")
    display.update()
    assert progress_line == ["1 of 4 runs", "24% of all epochs"]
    _advance(_folder(planned, 1), 3)
    display.update()
    assert progress_line[:2] == ["1 of 4 runs", "41% of all epochs"]
    assert progress_line[2].endswith(" left")
    assert progress_line[3] == "kd, seed 0: 3 of 4 epochs"
    assert not capsys.readouterr().out
    _advance(_folder(planned, 1), 4)
    attempts.record_failure(_folder(planned, 2), "first", ValueError("of no use"))
    attempts.record_failure(_folder(planned, 3), "a previous launch", ValueError("of no use"))
    teacher = planned.folder / next(iter(planned.teachers()))
    teacher.mkdir(parents=True)
    _advance(teacher, 1)
    display.update()
    display.update()
    assert capsys.readouterr().out.splitlines() == [
        "[2 of 4] kd, seed 0  test top-1 93.00",
        "[3 of 4] ce, seed 1  failed: ValueError: of no use",
        "[teacher] resnet8x4, seed 0  test top-1 90.00",
    ]


def test_a_dry_run_prints_the_state_of_each_run_and_the_remaining_time(planned, capsys):
    progress.print_plan(planned, jobs=2)
    output = capsys.readouterr().out
    assert "methods/kd/seed1" in output
    assert "4 runs in " in output
    assert "0 started or finished, 0 failed" in output
    assert "--max_runs=1" in output
    _advance(_folder(planned, 0), 4, seconds=40)
    _advance(_folder(planned, 1), 2)
    attempts.record_failure(_folder(planned, 2), "first", ValueError("of no use"))
    progress.print_plan(planned, jobs=2)
    output = capsys.readouterr().out
    assert "2 started or finished, 1 failed" in output
    assert "about 0:50 left with 2 concurrent runs: 10 s per epoch, 10 epochs" in output


def test_an_error_of_several_runs_is_printed_once(planned, capsys):
    planned.write()
    for i in range(4):
        attempts.record_failure(_folder(planned, i), "first", ValueError("of no use"))
    assert progress.print_results(planned) == 4
    output = capsys.readouterr().out
    assert output.count("of no use") == 1
    assert "methods/ce/seed0, methods/kd/seed0, methods/ce/seed1 and 1 more" in output
