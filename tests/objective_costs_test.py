"""The benchmark of the objectives' costs: its table, its files and its messages."""

import json
import subprocess
import sys

import pytest

from experiments.objective_costs import Cost, table


def _run(tmp_path, *options):
    command = [sys.executable, "-m", "experiments.objective_costs", f"--workdir={tmp_path}"]
    return subprocess.run([*command, *options], capture_output=True, text=True)


def test_the_table_is_sorted_by_cost_and_lists_failures_below():
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
def test_objectives_that_do_not_fit_the_networks_are_listed_with_the_reason(tmp_path):
    networks = ("--teacher=resnet8x4", "--student=resnet8", "--side=8", "--batch_size=4")
    sizes = ("--queue_size=20", "--steps=1", "--turns=2", "--methods=rkd,fsp")
    process = _run(tmp_path, *networks, *sizes)
    assert process.returncode == 0, process.stderr
    assert "fsp: not measured, the objective compares maps channel by channel" in process.stdout
    costs = json.loads((tmp_path / "objective_costs.json").read_text())["costs"]
    assert len(costs["rkd"]["shares"]) == 2
    assert (tmp_path / "objective_costs.md").read_text().strip() in process.stdout


@pytest.mark.long
def test_an_unknown_objective_gives_one_line(tmp_path):
    process = _run(tmp_path, "--methods=rdk")
    assert process.returncode == 2
    assert "unknown objective 'rdk'; did you mean" in process.stderr
    assert len(process.stderr.strip().split("\n")) == 1
