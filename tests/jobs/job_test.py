"""Complete jobs: results, warnings, and checks of workdir, teacher and data."""

import itertools
import pathlib

import cv2
import jax
import numpy as np
import pytest

from rrd_jax import checkpoints, errors
from rrd_jax.config import parse
from rrd_jax.jobs import job, preflight
from rrd_jax.training import recipe
from tests import launch

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_device", "tiny_network")]
_PAIR = "smoke,tiny-tiny"


@pytest.fixture(scope="module")
def teacher(tiny_teacher):
    """Fields of a job that select a trained teacher."""
    return {"teacher.checkpoint": str(tiny_teacher)}


def test_a_complete_job_ends_with_a_table_of_three_runs(tmp_path, capsys):
    config = launch.digits("smoke,tiny-tiny,rrd+kd", baseline=True)
    results = launch.run(config, tmp_path)
    assert [r.label for r in results] == ["teacher", "student alone", "distilled, rrd+kd"]
    assert results[0].agreement is None
    assert results[1].agreement is not None
    text = capsys.readouterr().out
    for result in results:
        folder = pathlib.Path(result.checkpoint)
        assert checkpoints.read_meta(folder)["result"] == result.to_json()
        assert f"{result.top1:.2f}" in text.split("| run")[1]
    for name in ("config.json", "metrics.jsonl", "tensorboard", "results.json"):
        assert (tmp_path / name).exists()
    row = launch.rows(tmp_path)[-1]
    assert {"train/loss/ce", "train/loss/kd", "train/loss/rrd", "test/agreement"} <= set(row)
    assert row["train/loss"] == pytest.approx(
        row["train/loss/ce"] + row["train/loss/kd"] + row["train/loss/rrd"], rel=1e-5
    )


@pytest.mark.parametrize(
    ("method", "fields", "warns"),
    [
        ("rrd", {"objectives.ce.weight": 0.0}, True),
        ("rrd+kd", {"objectives.ce.weight": 0.0}, False),
        ("rrd", {}, False),
        # simkd takes over the teacher's classifier.
        ("simkd", {"objectives.ce.weight": 0.0}, False),
    ],
)
def test_an_untrained_classifier_is_warned_about(method, fields, warns, teacher, tmp_path, capsys):
    config = launch.digits(f"{_PAIR},{method}", **teacher, **fields)
    plan = parse(config)
    dataset, mesh = job.prepare(plan.student)
    preflight.check(plan, dataset, [pathlib.Path(teacher["teacher.checkpoint"])], mesh)
    assert ("no objective trains the classifier" in capsys.readouterr().out) is warns


def test_the_table_compares_a_fine_tuned_student_with_random_weights(tmp_path, teacher, capsys):
    start = {"student.checkpoint": teacher["teacher.checkpoint"], "student.backbone_rate": 0.1}
    tuned = launch.digits("smoke,tiny,ce", **start)
    plain = launch.digits("smoke,tiny,ce")
    (alone,) = launch.run(tuned, tmp_path / "tuned")
    (random,) = launch.run(plain, tmp_path / "plain")
    # The comparison is added to a finished run.
    tuned.from_scratch = True
    capsys.readouterr()
    scratch, student = launch.run(tuned, tmp_path / "tuned")
    assert student == alone
    assert scratch.label == "student from random weights"
    assert launch.digests(tmp_path / "tuned" / "scratch", 6) == launch.digests(
        tmp_path / "plain", 6
    )
    assert scratch.top1 == random.top1
    header, *rows = [
        [cell.strip() for cell in line.split("|")]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("| ")
    ]
    column = header.index("over random weights")
    assert [row[column] for row in rows] == ["-", f"{student.top1 - random.top1:+.2f}"]


def test_from_scratch_requires_a_student_checkpoint():
    with pytest.raises(errors.InputError, match=r"from_scratch .* student\.checkpoint") as caught:
        parse(launch.digits(_PAIR, from_scratch=True))
    assert "\n" not in str(caught.value)


def test_a_workdir_of_another_config_is_refused_and_the_error_names_the_fields(tmp_path, teacher):
    fields = {**teacher, "train.epochs": 1}
    launch.run(launch.digits(_PAIR, **fields), tmp_path)
    with pytest.raises(errors.InputError, match=r"optimizer.learning_rate is 0.1, stored 0.05"):
        launch.run(launch.digits(_PAIR, **fields, **{"optimizer.learning_rate": 0.1}), tmp_path)
    # The checkpoint of the first run is intact.
    assert launch.digests(tmp_path, 3)
    launch.run(launch.digits(_PAIR, **fields, **{"train.log_every": 3}), tmp_path)


def test_all_methods_of_a_config_can_share_the_workdir_of_a_teacher(tmp_path):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    for method in ("ce", "kd", "rrd", "rrd+kd"):
        config = launch.get_config("digits", method)
        config.teacher.model = "resnet8x4"
        plan = parse(config)
        with job.claim(tmp_path, plan, plan.teachers[0].part):
            pass


def test_a_teacher_may_compute_in_another_precision(tmp_path, teacher):
    plan = parse(launch.digits(_PAIR, **teacher, **{"teacher.dtype": "bfloat16"}))
    _, network = job.load_teacher(plan, tmp_path, job.prepare(plan.student))
    student = recipe.create(plan.student.training, num_classes=10, examples=24).student
    assert student.dtype == np.float32
    kernels = [leaf for leaf in jax.tree.leaves(network.variables["params"]) if leaf.ndim == 4]
    assert {str(kernel.dtype) for kernel in kernels} == {"bfloat16"}
    assert all(leaf.sharding.is_fully_replicated for leaf in kernels)
    assert {leaf.dtype for leaf in jax.tree.leaves(network.evaluated())} == {np.dtype(np.float32)}


def test_bfloat16_is_warned_about_on_a_processor_without_bfloat16_arithmetic(
    tmp_path, teacher, monkeypatch, capsys
):
    monkeypatch.setattr(job.parallel, "has_fast_bfloat16", lambda: False)
    fields = {**teacher, "teacher.dtype": "bfloat16", "train.epochs": 1}
    launch.run(launch.digits(_PAIR, **fields), tmp_path)
    assert (
        "config.teacher.dtype: bfloat16 is slower than float32 on this CPU"
        in capsys.readouterr().out
    )


def test_the_teacher_must_fit_the_data_and_the_config(tmp_path, teacher):
    with pytest.raises(errors.InputError, match="is tiny for 10 classes .* need resnet14"):
        launch.run(launch.digits("smoke,resnet14-tiny", **teacher), tmp_path / "a")
    fields = {**teacher, "data.name": "cifar100", "data.image_size": 8}
    fields |= {"data.mean": (0.5, 0.5, 0.5), "data.std": (0.2, 0.2, 0.2)}
    with pytest.raises(errors.InputError, match="10 classes and 1 image channels.*100 classes"):
        launch.run(launch.digits(_PAIR, **fields), tmp_path / "b")
    fields = {"teacher.checkpoint": "/nonexistent"}
    with pytest.raises(errors.InputError, match="no intact checkpoint in /nonexistent"):
        launch.run(launch.digits(_PAIR, **fields), tmp_path / "c")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train.batch_size": 25}, "batch_size 25 is larger than .* of 24 images"),
        ({"train.accumulate": 3}, "8, but must be a multiple of train.accumulate, 3"),
        ({"data.name": "digitz", "data.mock_examples": 0}, "unknown data set 'digitz'"),
        (
            {"data.mean": (0.5,) * 3, "data.std": (0.5,) * 3},
            "data.mean has 3 values .* 1 channels",
        ),
    ],
)
def test_fields_that_do_not_fit_the_data_are_refused_before_the_workdir_is_created(
    fields, message, tmp_path
):
    with pytest.raises(errors.InputError, match=message) as caught:
        launch.run(launch.digits(_PAIR, **fields), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_run_on_an_image_folder_resumes_only_with_unchanged_images(tmp_path, data_dir):
    images, rng = tmp_path / "images", np.random.default_rng(0)
    for split, label, i in itertools.product(("train", "val"), ("cat", "dog"), range(8)):
        path = images / split / label / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (9, 7, 3), np.uint8))
    config = launch.digits(
        "smoke,tiny",
        **{
            "data.name": "image_folder",
            "data.manual_dir": str(images),
            "data.dir": data_dir,
            "data.mock_examples": 0,
            "data.test_split": "validation",
            "data.mean": (0.5, 0.5, 0.5),
            "data.std": (0.5, 0.5, 0.5),
        },
    )
    launch.interrupt(config, tmp_path / "run", 3)
    new = images / "train" / "cat" / "new.png"
    cv2.imwrite(str(new), rng.integers(0, 256, (9, 7, 3), np.uint8))
    message = "holds a run on image_folder/.*is now image_folder"
    with pytest.raises(errors.InputError, match=message):
        launch.run(config, tmp_path / "run")
    new.unlink()
    *_, result = launch.run(config, tmp_path / "run")
    assert result.model == "tiny"


def test_the_batch_size_must_be_a_multiple_of_the_devices(tmp_path, monkeypatch):
    # Undo the fixture one_device.
    monkeypatch.undo()
    with pytest.raises(errors.InputError, match="=12 is not a multiple of the 8 devices"):
        launch.run(launch.digits(_PAIR, **{"train.batch_size": 12}), tmp_path)
