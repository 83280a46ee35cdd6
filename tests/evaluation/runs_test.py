"""Runs whose students are compared with their teacher on held-out images."""

import json

import jax
import numpy as np
import pytest

from rrd_jax import errors
from rrd_jax.config import parse
from rrd_jax.data.feeds import feed
from rrd_jax.evaluation import alignment, knn, predictions, rows
from rrd_jax.jobs import job
from rrd_jax.jobs.alignment_during_training import Alignment
from rrd_jax.teacher import frozen, probe
from rrd_jax.training import metrics, recipe
from tests import launch
from tests.conftest import use_one_device

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("tiny_network", "one_device")]
_SIMILARITY_METRICS = ("neighbours_1", "neighbours_10", "cka", "rank_correlation")
_SPREAD_METRICS = ("effective_rank", "deviation")
# Metrics for 24 training images.
_LABEL_METRICS = ("knn_10", "knn_20", "probe")


def _config(teacher, **fields):
    defaults = {"teacher.checkpoint": str(teacher), "train.epochs": 2, "eval.proof_images": 20}
    return launch.digits("smoke,tiny-tiny,rrd", **defaults | fields)


@pytest.fixture(scope="module")
def evaluated_run(tiny_teacher, tmp_path_factory):
    """The workdir of a run that is evaluated after its second epoch, and its job."""
    folder = tmp_path_factory.mktemp("evaluated")
    fields = {"eval.proof": True, "eval.knn": True, "eval.every": 2}
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        config = _config(tiny_teacher, **fields)
        launch.run(config, folder)
    return folder, parse(config)


@pytest.fixture(scope="module")
def setting(evaluated_run):
    """The data and the devices of the run."""
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        return job.prepare(evaluated_run[1].student)


def _load(role, path, evaluated_run, setting):
    """Returns the student or the teacher of the run."""
    training = evaluated_run[1].student.training
    choice = training.network if role == "student" else evaluated_run[1].teachers[0].network
    terms = training.create_objectives(24) if role == "student" else None
    return frozen.load(choice, path, *setting, training, terms)


def _embed(network, split):
    compiled = predictions.compile_embed(network.network, network.training.normalize, network.mesh)
    return predictions.collect_embeddings(compiled, network.variables, split, 7, network.mesh)


def test_only_evaluated_epochs_have_alignment_metrics(evaluated_run):
    first, last = launch.rows(evaluated_run[0])
    assert not [name for name in first if name.startswith("proof/")]
    floor = [f"random_{name}" for name in (*_SIMILARITY_METRICS, *_SPREAD_METRICS, *_LABEL_METRICS)]
    ceiling = [f"teacher_{name}" for name in (*_SPREAD_METRICS, *_LABEL_METRICS)]
    expected = {*_SIMILARITY_METRICS, *_SPREAD_METRICS, *_LABEL_METRICS, *floor, *ceiling}
    names = {name.removeprefix("proof/") for name in last if name.startswith("proof/")}
    # neighbours_20 is undefined for 20 images.
    assert names == expected | {"loss/rrd", "floor/rrd"}


def test_the_loss_is_above_its_floor(evaluated_run):
    last = launch.rows(evaluated_run[0])[-1]
    assert 0 < last["proof/floor/rrd"] < last["proof/loss/rrd"]


def test_metrics_are_those_of_the_checkpoint_and_its_teacher(evaluated_run, setting, tiny_teacher):
    last = launch.rows(evaluated_run[0])[-1]
    student = _load("student", evaluated_run[0], evaluated_run, setting)
    teacher = _load("teacher", tiny_teacher, evaluated_run, setting)
    split = feed.select(setting.dataset.test, rows.subset(24, 20))
    assert len(split) == 20
    student_rows, teacher_rows = (_embed(network, split)[0] for network in (student, teacher))
    expected = alignment.compare(student_rows, alignment.reference(teacher_rows))
    for name, value in expected.items():
        assert last[f"proof/{name}"] == pytest.approx(value, rel=1e-4), name
    assert last["proof/teacher_deviation"] == pytest.approx(
        teacher.held_out.spread["deviation"], rel=1e-5
    )


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_knn_and_probe_use_the_training_images(role, evaluated_run, setting, tiny_teacher):
    last = launch.rows(evaluated_run[0])[-1]
    path = evaluated_run[0] if role == "student" else tiny_teacher
    network = _load(role, path, evaluated_run, setting)
    (embeddings, labels), (queries, truth) = (
        _embed(network, split) for split in (setting.dataset.train, setting.dataset.test)
    )
    prefix = "proof/" if role == "student" else "proof/teacher_"
    predicted = knn.classify(queries, embeddings, labels, 10, (10,))[10]
    assert last[f"{prefix}knn_10"] == metrics.percent_equal(predicted, truth)
    head = probe.fit(embeddings, labels, 10, 1.0, setting.mesh).head
    guesses = (queries @ head["kernel"] + head["bias"]).argmax(axis=1)
    assert last[f"{prefix}probe"] == metrics.percent_equal(guesses, truth)


def test_the_final_table_has_rows_for_random_weights_student_and_teacher(evaluated_run):
    *_, result = json.loads((evaluated_run[0] / "results.json").read_text())
    assert result["proof"]["cka"] == launch.rows(evaluated_run[0])[-1]["proof/cka"]
    header, cells = alignment.table({result["label"]: result["proof"]})
    assert [row[0] for row in cells] == ["random weights", "distilled, rrd", "teacher"]
    assert header[-2:] == ("20-NN top-1", "probe top-1")
    assert [row[header.index("CKA")] == "-" for row in cells] == [False, False, True]
    assert all(row[-1] != "-" for row in cells)


def test_a_run_without_evaluation_of_embeddings_is_bit_identical(
    evaluated_run, tiny_teacher, tmp_path, capsys
):
    config = _config(tiny_teacher, **{"eval.proof_images": 2000})
    launch.run(config, tmp_path)
    bare = [
        {name: value for name, value in row.items() if not name.startswith("proof/")}
        for row in launch.rows(evaluated_run[0])
    ]
    assert launch.rows(tmp_path) == bare
    assert launch.digests(tmp_path, 6) == launch.digests(evaluated_run[0], 6)
    *_, result = json.loads((tmp_path / "results.json").read_text())
    assert "proof" not in result
    assert "embeddings of" not in capsys.readouterr().out


def test_a_collapsed_student_is_warned_about(evaluated_run, setting, tiny_teacher, capsys):
    training = evaluated_run[1].student.training
    plan = recipe.create(training, setting.dataset.num_classes, len(setting.dataset.train))
    teacher = _load("teacher", tiny_teacher, evaluated_run, setting)
    student = _load("student", evaluated_run[0], evaluated_run, setting)
    proof = Alignment(plan, *setting, teacher)
    # eval.every skips the first epoch.
    assert not proof.measure(student.variables, epoch=1)
    proof.measure(student.variables, epoch=2)
    assert "collapsed" not in "".join(capsys.readouterr())
    proof.measure(jax.tree.map(np.zeros_like, student.variables), epoch=2)
    assert "after epoch 2 of 2 the student's embeddings have collapsed: effective rank" in "".join(
        capsys.readouterr()
    ).replace("\n", " ")
    with pytest.raises(errors.DivergedError, match="the student's embeddings .* are not finite"):
        proof.measure(jax.tree.map(lambda w: w * np.nan, student.variables), epoch=2)
    with pytest.raises(predictions.StoppedError):
        proof.measure(student.variables, epoch=2, stop=lambda: True)


def test_too_few_images_for_alignment_metrics_are_refused_before_training(tiny_teacher, tmp_path):
    config = _config(tiny_teacher, **{"eval.proof": True, "data.mock_examples": 2})
    config.train.batch_size = 2
    with pytest.raises(errors.InputError, match="eval.proof needs at least 3 test images"):
        launch.run(config, tmp_path)
    with pytest.raises(errors.InputError, match=r"eval.proof_images.*3"):
        parse(_config(tiny_teacher, **{"eval.proof_images": 2}))


def test_too_little_memory_for_knn_is_refused_before_training_and_skipped_later(
    evaluated_run, setting, tiny_teacher, monkeypatch, capsys
):
    plan = recipe.create(evaluated_run[1].student.training, setting.dataset.num_classes, 24)
    teacher = _load("teacher", tiny_teacher, evaluated_run, setting)
    student = _load("student", evaluated_run[0], evaluated_run, setting)
    proof = Alignment(plan, *setting, teacher)
    monkeypatch.setattr(probe.parallel, "host_bytes", lambda: 1000)
    with pytest.raises(errors.InputError, match="eval.knn needs .* for 24 embeddings"):
        Alignment(plan, *setting, teacher)
    values = proof.measure(student.variables, epoch=2)
    assert "cka" in values
    assert "knn_20" not in values
    assert "for 24 embeddings" in "".join(capsys.readouterr()).replace("\n", " ")
