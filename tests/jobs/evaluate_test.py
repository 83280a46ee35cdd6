"""Evaluation of a finished job."""

import json
import pathlib

import numpy as np
import pytest
import safetensors.numpy

from rrd_jax import checkpoints, errors
from rrd_jax.config import parse
from rrd_jax.data.images import transforms
from rrd_jax.jobs import evaluate
from rrd_jax.weights import to_torch
from tests import launch
from tests.conftest import use_one_device

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_device", "tiny_network")]


def _config(argument="smoke,resnet8-tiny,kd", **fields):
    return launch.digits(argument, **fields)


def _evaluate(folder, config=None):
    return evaluate.run(parse(config or _config()), folder)


@pytest.fixture(scope="module")
def run(tiny_network, tmp_path_factory):
    """The workdir of a finished job, and its results."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        results = launch.run(_config(), folder)
    return folder, results


def test_evaluation_reproduces_the_results_of_a_finished_job(run, capsys):
    folder, (teacher, student) = run
    rows = _evaluate(folder)
    assert [row["run"] for row in rows] == ["teacher", "student"]
    assert [row["top1"] for row in rows] == [teacher.top1, student.top1]
    assert [row["agreement"] for row in rows] == [None, student.agreement]
    assert [row["parameters"] for row in rows] == [teacher.parameters, student.parameters]
    last = json.loads((folder / "metrics.jsonl").read_text().split("\n")[-2])
    for name in ("top1", "top5", "loss"):
        assert rows[1][name] == pytest.approx(last[f"test/{name}"], rel=1e-6)
    assert "| student | tiny    | 24 " in capsys.readouterr().out


def test_other_preprocessing_than_that_of_the_run_is_warned_about(run, capsys):
    folder, _ = run
    _evaluate(folder)
    assert "was trained with" not in capsys.readouterr().out
    _evaluate(folder, _config(**{"data.mean": (0.25,)}))
    assert "was trained with data.mean" in capsys.readouterr().out


def test_evaluation_and_a_finished_job_decode_no_training_images(run, monkeypatch):
    decode, decoded = transforms.decode, []
    monkeypatch.setattr(transforms, "decode", lambda *args: decoded.append(args) or decode(*args))
    launch.run(_config(), run[0])
    assert not decoded
    _evaluate(run[0])
    # The test images are decoded once for both networks.
    assert len(decoded) == 24


def test_a_pytorch_file_of_the_teacher_has_the_results_of_the_teacher(run, tmp_path):
    folder, _ = run
    variables, _ = checkpoints.load_student(folder / "teacher")
    path = tmp_path / "teacher.safetensors"
    safetensors.numpy.save_file(to_torch("resnet8", variables), path)
    config = _config(**{"teacher.checkpoint": str(path)})
    (alone,) = _evaluate(tmp_path / "nothing", config)
    teacher, student = _evaluate(folder, config)
    assert alone == teacher
    assert teacher["top1"] == _evaluate(folder)[0]["top1"]
    # The teacher is not trained again for a distillation.
    results = launch.run(config, tmp_path / "student")
    assert [result.label for result in results] == ["teacher", "distilled, kd"]
    assert [result.top1 for result in results] == [teacher["top1"], student["top1"]]


def test_the_best_checkpoint_of_student_and_teacher_can_be_evaluated(run, tmp_path, capsys):
    folder, (teacher, student) = run
    last = checkpoints.read_meta(folder / "checkpoints")["result"]
    config = _config(**{"teacher.checkpoint": f"{folder / 'teacher'}@best"})
    rows = _evaluate(pathlib.Path(f"{folder}@best"), config)
    assert [row["top1"] for row in rows] == [teacher.best_top1, student.best_top1]
    assert capsys.readouterr().out.count("note: the best checkpoint in") == 2
    assert _evaluate(pathlib.Path(f"{folder}@last"))[1]["top1"] == last["top1"]
    with pytest.raises(errors.InputError, match="unknown checkpoint '77'.*available: best, last"):
        _evaluate(pathlib.Path(f"{folder}@77"))
    with pytest.raises(errors.InputError, match="is a checkpoint of the run in .*omit @best"):
        launch.run(_config(), pathlib.Path(f"{folder}@best"))
    assert not pathlib.Path(f"{folder}@best").exists()


def test_a_student_is_evaluated_without_a_teacher(run, tmp_path):
    folder, results = run
    variables, meta = checkpoints.load_student(folder)
    meta = {name: meta[name] for name in ("model", "num_classes", "image_shape")}
    checkpoints.save_network(tmp_path, variables, meta)
    (row,) = _evaluate(tmp_path, _config("smoke,tiny"))
    assert (row["run"], row["top1"], row["agreement"]) == ("teacher", results[1].top1, None)
    with pytest.raises(errors.InputError, match="holds a converted network, not a run"):
        launch.run(_config("smoke,tiny"), tmp_path)
    assert checkpoints.load_student(tmp_path)[1] == meta


def test_missing_and_mismatching_networks_are_refused(run, tmp_path):
    with pytest.raises(errors.InputError, match="nothing to evaluate"):
        _evaluate(tmp_path)
    config = _config(**{"teacher.checkpoint": str(tmp_path / "lost")})
    with pytest.raises(errors.InputError, match="no intact checkpoint in .*lost"):
        _evaluate(run[0], config)
    with pytest.raises(errors.InputError, match="is tiny for 10 classes.*need resnet20 for 10"):
        _evaluate(run[0], _config("smoke,resnet8-resnet20,kd"))


def test_robust_evaluation_writes_calibration_of_student_and_teacher(run, capsys):
    folder, _ = run
    rows = _evaluate(folder, _config(**{"eval.robust": ("calibration",)}))
    assert "| calibration | ECE (%)" in capsys.readouterr().out
    results = json.loads((folder / "robustness.json").read_text())["calibration"]["networks"]
    for row in rows:
        values = results[row["run"]]
        assert values["nll"] == pytest.approx(row["loss"], rel=1e-5)
        correct = np.nansum(np.multiply(values["count"], np.array(values["accuracy"], float)))
        assert 100 * correct / sum(values["count"]) == pytest.approx(row["top1"])
