import json
import subprocess
import sys

import pytest

from experiments.objective_costs import Cost, table


def _run(tmp_path, *options):
    command = [sys.executable, "-m", "experiments.objective_costs", f"--workdir={tmp_path}"]
    return subprocess.run([*command, *options], capture_output=True, text=True)


def test_the_dearest_comes_first_and_what_failed_is_a_line():
    costs = {
        "at": Cost([1.0, 1.1, 1.2], 5.0),
        "fsp": Cost([], 0.0, "channels differ"),
        "ft": Cost([1.6, 1.4, 1.5], 7.4),
    }
    lines = table(costs).split("\n")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:4]]
    assert rows == [
        ["ft", "1.50", "1.40 1.60", "7 s"],
        ["at", "1.10", "1.00 1.20", "5 s"],
    ]
    assert lines[-1] == "fsp: not measured, channels differ"


@pytest.mark.long
def test_it_measures_what_fits_and_says_what_does_not(tmp_path):
    networks = ("--teacher=resnet8x4", "--student=resnet8", "--side=8", "--batch_size=4")
    short = ("--queue_size=20", "--steps=1", "--turns=2", "--methods=rkd,fsp")
    done = _run(tmp_path, *networks, *short)
    assert done.returncode == 0, done.stderr
    assert "fsp: not measured, the objective compares maps channel by channel" in done.stdout
    kept = json.loads((tmp_path / "objective_costs.json").read_text())["costs"]
    assert len(kept["rkd"]["shares"]) == 2
    assert (tmp_path / "objective_costs.md").read_text().strip() in done.stdout


@pytest.mark.long
def test_an_unknown_objective_is_one_line(tmp_path):
    done = _run(tmp_path, "--methods=rdk")
    assert done.returncode == 2
    assert "unknown objective 'rdk'; did you mean" in done.stderr
    assert len(done.stderr.strip().split("\n")) == 1
