"""Checks of a frozen teacher before distillation."""

import dataclasses

import numpy as np
import pytest

from rrd_jax import data, errors, networks
from rrd_jax.config import parse
from rrd_jax.data import dataset as datasets
from rrd_jax.jobs import job
from rrd_jax.teacher import frozen
from tests import launch

pytestmark = pytest.mark.usefixtures("one_device", "tiny_network")
_PAIR = "smoke,tiny-tiny,kd"


def _teacher(label, prediction, **fields):
    """Returns a teacher with the given predictions."""
    splits = datasets.Dataset("v", 10, (8, 8, 1), None, None)
    teacher = frozen.FrozenNetwork(networks.create("tiny", 10), {}, (), splits, None, None)
    teacher = dataclasses.replace(teacher, **fields)
    loss = np.ones(len(label), np.float32)
    teacher.__dict__["predictions"] = {"prediction": prediction, "label": label, "loss": loss}
    return teacher


def test_implausible_predictions_of_a_teacher_are_warned_about_once(capsys):
    label = np.arange(400) % 10
    teacher = _teacher(label, (label + 1) % 10)
    assert "another class order" in teacher.examine()
    assert teacher.examine()
    assert (
        capsys.readouterr().out.count(
            "warning: implausible predictions of the teacher: top-1 is 0.0 %"
        )
        == 1
    )
    assert not _teacher(label, (label + 1) % 10, is_examined=False).examine()
    assert not _teacher(label, label).examine()
    assert not capsys.readouterr().out


def test_logits_that_are_not_finite_stop_the_job():
    teacher = _teacher(np.arange(10), np.arange(10))
    teacher.predictions["loss"][3] = np.nan
    with pytest.raises(
        errors.InputError, match="the teacher is invalid .*loss of .* is not finite"
    ):
        teacher.examine()


@pytest.mark.long
def test_a_job_checks_its_teacher_before_the_first_step_but_not_after_it_is_finished(
    tiny_teacher, tmp_path, capsys, monkeypatch
):
    plan = parse(launch.digits(_PAIR, **{"teacher.checkpoint": str(tiny_teacher)}))
    splits = data.load(plan.student.source)
    real = dataclasses.replace(plan.student.source, mock_examples=0)
    plan = dataclasses.replace(plan, student=dataclasses.replace(plan.student, source=real))
    monkeypatch.setattr(frozen.prediction_checks, "find_problem", lambda *_: "chance level")
    job.run(plan, tmp_path, dataset=splits)
    before, _, _ = capsys.readouterr().out.partition("\n[distilled")
    assert "warning: implausible predictions of the teacher: chance level" in before
    monkeypatch.delattr(frozen.FrozenNetwork, "predictions")
    job.run(plan, tmp_path, dataset=splits)
    assert "implausible" not in capsys.readouterr().out


def test_existing_teachers_are_read_before_other_teachers_are_trained(tmp_path):
    config = launch.digits("smoke,tiny+tiny-tiny,kd")
    plan = parse(config)
    first, second = plan.teachers
    second = dataclasses.replace(second, checkpoint=str(tmp_path / "lost"))
    with pytest.raises(errors.InputError, match="no intact checkpoint in .*lost"):
        job.run(dataclasses.replace(plan, teachers=(first, second)), tmp_path / "run")
    assert not (tmp_path / "run" / "teacher").exists()
