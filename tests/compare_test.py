import json
import subprocess
import sys

from experiments import compare
from rrd_jax import runs


def _result(top1):
    return runs.Result("x", "resnet8", top1, top1 + 1, 3, 90.0, 1, 1.0, "")


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


def test_the_grid_shares_a_teacher_and_a_second_start_trains_nothing(tmp_path):
    command = [
        sys.executable,
        "experiments/compare.py",
        "--config=configs/digits.py:smoke,resnet8-resnet8",
        "--methods=ce,rrd",
        "--seeds=2",
        "--config.objectives.rrd.dim=8",
        f"--workdir={tmp_path}",
    ]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("[teacher] epoch   1/1") == 1
    assert first.stdout.count("epoch   2/2") == 4
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "epoch   2/2" not in second.stdout
    table = (tmp_path / "table.md").read_text().strip()
    assert table in first.stdout
    assert table in second.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    assert {method: len(runs) for method, runs in results.items()} == {"ce": 2, "rrd": 2}
    saved = json.loads((tmp_path / "rrd" / "seed1" / "config.json").read_text())
    assert (saved["seed"], saved["objectives"]["rrd"]["dim"]) == (1, 8)
    assert all(run["agreement"] is not None for run in results["ce"])


def test_seeds_may_be_trained_at_once_where_images_lie_on_the_device(tmp_path):
    command = [
        sys.executable,
        "experiments/compare.py",
        "--config=configs/digits.py:smoke,resnet8-resnet8",
        "--methods=rrd",
        "--seeds=3",
        "--parallel_seeds=2",
        f"--workdir={tmp_path}",
    ]
    streamed = subprocess.run(
        [*command, "--config.data.feed=streamed"], capture_output=True, text=True
    )
    assert streamed.returncode == 2
    assert "--parallel_seeds=2 needs training images on the devices" in streamed.stderr
    assert len(streamed.stderr.strip().split("\n")) == 1
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch   2/2") == 3
    assert len(json.loads((tmp_path / "results.json").read_text())["rrd"]) == 3


def test_an_unknown_method_is_one_line(tmp_path):
    command = [sys.executable, "experiments/compare.py", "--config=configs/digits.py:smoke"]
    command += ["--methods=ce,rdd", f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.strip().split("\n")) == 1
    assert "did you mean 'rrd'" in done.stderr
    assert not (tmp_path / "run").exists()
