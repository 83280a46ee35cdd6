import json
import subprocess
import sys

import pytest

from experiments import compare
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


def test_cells_share_a_teacher_and_a_second_start_trains_new_seeds_only(tmp_path):
    options = ["--methods=ce,rrd", "--config.objectives.rrd.dim=8"]
    first = _finish(_start(tmp_path, *options, "--seeds=1"))
    assert first.count("[teacher] epoch   1/1") == 1
    assert first.count("epoch   2/2") == 2
    second = _finish(_start(tmp_path, *options, "--seeds=2"))
    assert "[teacher] epoch" not in second
    assert second.count("seed 1] epoch   2/2") == 2
    assert "seed 0] epoch" not in second
    assert (tmp_path / "table.md").read_text().strip() in second
    results = _results(tmp_path)
    labels = {method: [run["label"] for run in runs] for method, runs in results.items()}
    assert labels == {m: [f"{m}, seed 0", f"{m}, seed 1"] for m in ("ce", "rrd")}
    saved = json.loads((tmp_path / "rrd" / "seed1" / "config.json").read_text())
    assert (saved["seed"], saved["objectives"]["rrd"]["dim"]) == (1, 8)
    assert all(run["agreement"] is not None for run in results["ce"])


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
