import subprocess
import sys

import numpy as np
import pytest

from experiments import teacher_precision_table as table
from tests import launch


def _answers(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    logits, embedding = rng.normal(size=(6, 4)), rng.normal(size=(6, 3))
    return table.Answers(logits, scale * embedding, scale * rng.normal(size=(20, 3)))


def test_relations_are_compared_as_softmaxes_of_cosines():
    labels = _answers(0).logits.argmax(1)
    row = table.compare(_answers(0), _answers(0, scale=3), labels)
    assert row[:2] == ["100.00, 100.00", "0.00 %"]
    assert row[3:5] == ["100.0 %", "100.0 %"]
    assert float(row[2].split(",")[0]) < 1e-15
    assert abs(float(row[5].split(",")[0])) < 1e-12
    assert len(row) == len(table.COLUMNS)
    other = table.compare(_answers(0), _answers(1), labels)
    assert float(other[5].split(",")[0]) > 0.1


def test_divergence_and_entropy_are_those_of_the_softmaxes():
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
    found = table.of_softmaxes(np.log(p)[None] + 7, np.log(q)[None])
    np.testing.assert_allclose(found, [(p * np.log(p / q)).sum(), -(p * np.log(p)).sum()])


@pytest.mark.long
def test_a_teacher_in_bfloat16_sees_nearly_the_same(tmp_path):
    run = tmp_path / "run"
    launch.run(launch.digits("smoke,resnet8-resnet8,rrd"), run)
    command = [sys.executable, "-m", "experiments.teacher_precision", f"--runs={run}"]
    command += [f"--workdir={tmp_path}", "--queries=10", "--memory=20"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cells = done.stdout.split("\n")[3].split("|")
    assert [cell.strip() for cell in cells[1:4]] == ["resnet8, digits", "10", "20"]
    moved = float(cells[6].split(",")[0])
    assert 0 < moved < 0.01
    missing = subprocess.run(command[:3], capture_output=True, text=True)
    assert missing.returncode == 2
    assert "--runs is missing" in missing.stderr
