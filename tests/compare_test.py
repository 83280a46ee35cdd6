import json
import shutil
import subprocess
import sys

import pytest
from absl.testing import flagsaver

from experiments import compare
from rrd_jax import errors, main
from rrd_jax.run import Result


def _start(workdir, *options, config="digits.py:smoke,resnet8-resnet8"):
    command = [sys.executable, "experiments/compare.py", f"--config=configs/{config}"]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(process):
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    return stdout


def _results(workdir):
    """By method, each seed's figures but for what depends on time and place."""
    methods = json.loads((workdir / "results.json").read_text())
    return {
        method: [
            {k: v for k, v in run.items() if k not in ("seconds", "checkpoint")} for run in runs
        ]
        for method, runs in methods.items()
    }


def _result(top1):
    return Result("x", "resnet8", top1, top1 + 1, 3, 90.0, 1, 1.0, "")


def test_the_table_has_mean_std_n_and_the_gain_with_its_error():
    results = {
        "ce": [_result(v) for v in (90.0, 91.0, 92.0)],
        "rrd": [_result(v) for v in (93.0, 94.0, 95.0)],
    }
    lines = compare.summary(results).split("\n")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[2] == ["ce", "3", "91.00 +- 1.00", "92.00 +- 1.00", "90.00 +- 0.00", "-"]
    # sqrt((1 + 1) / 3)
    assert cells[3][5] == "+3.00 +- 0.82"


def test_one_seed_has_no_deviation_and_methods_may_have_different_numbers_of_seeds():
    results = {
        "ce": [_result(v) for v in (90.0, 92.0)],
        "kd": [_result(96.41)],
        "rrd": [_result(v) for v in (93.0, 94.0, 95.0)],
    }
    lines = compare.summary(results).split("\n")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[3] == ["kd", "1", "96.41", "97.41", "90.00", "+5.41 +- -"]
    assert (cells[4][1], cells[4][5]) == ("3", "+3.00 +- 1.15")  # sqrt(2 / 2 + 1 / 3)


@pytest.fixture
def cells(one_device, monkeypatch):
    """The jobs of two methods and two seeds, from flags."""
    config = "--config=configs/digits.py:smoke,resnet8-resnet8"
    argv = ["compare", config, "--config.objectives.kd.temperature=2"]
    monkeypatch.setattr(sys, "argv", argv)  # where ml_collections looks for fields
    with flagsaver.flagsaver():
        main.parse_flags(argv)
        yield {(m, s): compare.cell_job(m, s) for s in range(2) for m in ("ce", "kd")}


def test_cells_share_a_teacher_and_finished_ones_are_read_back(tmp_path, capsys, cells):
    first = compare.run_grid(tmp_path, {cell: cells[cell] for cell in (("ce", 0), ("kd", 0))})
    stdout = capsys.readouterr().out
    assert stdout.count("[teacher] epoch   1/1") == 1
    assert stdout.count("epoch   2/2") == 2
    del cells["kd", 1]
    results = compare.run_grid(tmp_path, cells)
    stdout = capsys.readouterr().out
    assert stdout.count("] epoch   2/2") == 1
    assert "[ce, seed 1] epoch   2/2" in stdout
    assert "[teacher] epoch" not in stdout
    assert (results["ce"][:1], results["kd"]) == (first["ce"], first["kd"])
    assert [run.label for run in results["ce"]] == ["ce, seed 0", "ce, seed 1"]
    assert all(run.agreement is not None for run in results["ce"])
    saved = json.loads((tmp_path / "ce" / "seed1" / "config.json").read_text())
    assert saved["seed"] == 1
    saved = json.loads((tmp_path / "kd" / "seed0" / "config.json").read_text())
    assert saved["objectives"]["kd"]["temperature"] == 2


def test_a_smaller_grid_in_the_same_folder_keeps_the_larger_table(tmp_path, cells, capsys):
    def write(results):
        rows = {method: [run._asdict() for run in runs] for method, runs in results.items()}
        (tmp_path / "results.json").write_text(json.dumps(rows))

    write(compare.run_grid(tmp_path, cells))
    results = compare.run_grid(tmp_path, {("kd", 1): cells["kd", 1]})
    assert list(results) == ["ce", "kd"]
    assert [run.label for run in results["ce"]] == ["ce, seed 0", "ce, seed 1"]
    assert [run.label for run in results["kd"]] == ["kd, seed 0", "kd, seed 1"]
    shutil.rmtree(tmp_path / "ce" / "seed0")
    with pytest.raises(errors.InputError, match="has 'ce' with seed 0, which is not finished"):
        compare.run_grid(tmp_path, {("kd", 1): cells["kd", 1]})
    for damaged in ("", "null", "[1]", '{"ce": [{"label": 3}]}', "\\x00"):
        (tmp_path / "results.json").write_text(damaged)
        with pytest.raises(errors.InputError, match="results.json is damaged"):
            compare.run_grid(tmp_path, cells)


@pytest.mark.usefixtures("cells")
@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (["kd", "kd"], "the same method twice, as 'kd' and as 'kd'"),
        (["rrd+kd", "kd+rrd"], "twice, as 'rrd\\+kd' and as 'kd\\+rrd'"),
        ([], "--methods= names no method"),
        (["kd", ""], "--methods=kd, names no method"),
        (["ce", "rdd"], "did you mean 'rrd'"),
    ],
)
def test_methods_that_cannot_be_compared_are_refused(methods, message):
    with pytest.raises(errors.InputError, match=message):
        compare.grid(methods, 2)


@pytest.mark.long
def test_a_second_start_of_the_command_trains_nothing(tmp_path):
    options = ["--methods=ce,rrd", "--seeds=2", "--config.objectives.rrd.dim=8"]
    first = _finish(_start(tmp_path, *options))
    assert first.count("[teacher] epoch   1/1") == 1
    assert first.count("epoch   2/2") == 4
    second = _finish(_start(tmp_path, *options))
    assert "] epoch" not in second
    table = (tmp_path / "table.md").read_text().strip()
    assert table in first
    assert table in second
    assert {method: len(runs) for method, runs in _results(tmp_path).items()} == {"ce": 2, "rrd": 2}


@pytest.mark.long
def test_a_grid_that_was_killed_goes_on_to_the_same_results(tmp_path):
    options = ["--methods=ce,rrd", "--seeds=2", "--config.train.epochs=4"]
    _finish(_start(tmp_path / "whole", *options))
    process = _start(tmp_path / "killed", *options)
    for line in process.stdout:
        if line.startswith("[rrd, seed 0] epoch   3/4"):  # the checkpoint of epoch 2 is written
            process.kill()
    process.communicate()
    assert process.returncode < 0
    stdout = _finish(_start(tmp_path / "killed", *options))
    assert "[rrd, seed 0] going on after step" in stdout
    assert "[ce, seed 0] epoch" not in stdout
    assert _results(tmp_path / "killed") == _results(tmp_path / "whole")


@pytest.mark.parametrize(
    ("config", "methods", "message"),
    [
        ("digits.py:smoke", "ce,rdd", "did you mean 'rrd'"),
        ("digits.py:resnet8", "ce", "the config has no teacher; name a pair TEACHER-STUDENT"),
    ],
)
@pytest.mark.long
def test_what_cannot_be_compared_is_one_line(tmp_path, config, methods, message):
    process = _start(tmp_path / "run", f"--methods={methods}", config=config)
    _, stderr = process.communicate()
    assert process.returncode == 2
    assert len(stderr.strip().split("\n")) == 1
    assert message in stderr
    assert not (tmp_path / "run").exists()
