"""Deliberately degraded training data, for every kind of data set and both feeds."""

import contextlib
import dataclasses
import importlib.util
import json
import shutil

import numpy as np
import PIL.Image
import pytest

import rrd_jax
from rrd_jax import data, errors
from rrd_jax.config import parse
from rrd_jax.jobs import evaluate
from tests import launch
from tests.data import folders

_PLAIN = {"image_size": 8, "augment": "none"}
_IMAGES = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 1), np.uint8)
_ARRAYS = (_IMAGES, np.arange(80) % 4)
_DEGRADED = {"share": 0.5, "imbalance": 3.0, "label_noise": 0.25, "noise_seed": 7}


def _digits(data_dir, **fields):
    return data.load(data.Source("digits", dir=data_dir, **_PLAIN, **fields))


def _arrays(**fields):
    return data.from_sources(_ARRAYS, _ARRAYS, data.Source(**_PLAIN, **fields))


def test_label_noise_affects_only_the_training_split(data_dir):
    clean = _digits(data_dir)
    noisy = _digits(data_dir, label_noise=0.2, test_split="train[:300]+test")
    assert (noisy.train.labels != clean.train.labels).sum() == 200
    np.testing.assert_array_equal(noisy.train.images, clean.train.images)
    np.testing.assert_array_equal(
        noisy.test.labels, np.concatenate([clean.train.labels[:300], clean.test.labels])
    )
    np.testing.assert_array_equal(noisy.train.examples.true_labels, clean.train.labels)


def test_a_small_share_contains_every_class(data_dir):
    subset = _digits(data_dir, train_split="train[:200]", share=0.05)
    assert sorted(subset.train.labels.tolist()) == list(range(10))
    dataset = _digits(data_dir, train_split="train[:200]")
    positions = subset.train.examples.indices
    np.testing.assert_array_equal(subset.train.images, dataset.train.images[positions])
    assert subset.summary.lines == ("share: 10 of 200 training images are used, 1 per class",)
    assert subset.summary.details["images"] == {"train": 10, "test": 797}


def test_the_share_is_drawn_before_the_long_tail_and_the_label_noise(data_dir):
    dataset = _digits(data_dir, **_DEGRADED)
    degraded = dataset.summary.details["degraded"]
    counts = degraded["images of each class"]
    assert degraded["of"] == 1000
    assert degraded["images"] == len(dataset.train) == sum(counts)
    assert counts[0] // counts[-1] == 3
    assert counts == sorted(counts, reverse=True)
    assert degraded["wrong labels"] == round(0.25 * len(dataset.train))
    lines = "\n".join(dataset.summary.lines)
    assert f"of 500 training images are used, {counts[0]} of class 0 ('0') to {counts[-1]}" in lines
    assert (
        f"label noise: {degraded['wrong labels']} of {len(dataset.train)} training labels" in lines
    )


def test_per_class_limits_the_images_per_class(data_dir):
    dataset = _digits(data_dir, per_class=10)
    assert dataset.summary.details["degraded"]["images of each class"] == [10] * 10
    assert "100 of 1,000 training images are used, 10 per class" in dataset.summary.lines[0]
    assert not any("per_class" in text for text in dataset.summary.warnings)
    positions = set(dataset.train.examples.indices.tolist())
    assert positions > set(_digits(data_dir, per_class=3).train.examples.indices.tolist())
    assert positions != set(_digits(data_dir, per_class=10, noise_seed=1).train.examples.indices)
    dataset = _digits(data_dir, per_class=101)
    (warning,) = (text for text in dataset.summary.warnings if "per_class" in text)
    counts = dataset.summary.details["degraded"]["images of each class"]
    least = int(np.argmin(counts))
    assert max(counts) == 101
    assert f"such as class {least} ('{least}') with {counts[least]}; all" in warning


@pytest.mark.xdist_group("workers")
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.long)])
def test_both_feeds_return_the_same_degraded_data(tmp_path, workers):
    root = tmp_path / "root"
    folders.fill(root, number=20)
    resident, streamed = (
        folders.load(root, share=0.6, label_noise=0.3, feed=kind)
        for kind in ("resident", "streamed")
    )
    assert resident.version == streamed.version
    split = dataclasses.replace(streamed.train, workers=workers)
    with contextlib.closing(split.train_batches(4, 0, 0, 5)) as stream:
        for batch in stream:
            index = batch["index"]
            np.testing.assert_array_equal(batch["label"], resident.train.labels[index])
            np.testing.assert_array_equal(batch["image"], resident.train.images[index])


def test_the_summary_of_a_folder_counts_the_remaining_images(tmp_path):
    folders.fill(tmp_path / "root", number=40)
    dataset = folders.load(tmp_path / "root", imbalance=4.0)
    train = dataset.summary.details["images"]["train"]
    assert [*train.values()] == np.bincount(dataset.train.labels).tolist()
    assert train["cat"] // train["dog"] == 4


def test_all_kinds_of_sources_are_degraded_identically(tmp_path, monkeypatch):
    # A list has no `labels` attribute, so labels are read example by example.
    pairs = list(zip(*_ARRAYS, strict=True))
    listed = type("Listed", (list,), {"labels": _ARRAYS[1]})(pairs)
    degraded = [
        data.from_sources(source, pairs, data.Source(**_PLAIN, **_DEGRADED), num_classes=4)
        for source in (pairs, listed, _ARRAYS)
    ]
    if importlib.util.find_spec("datasets"):
        datasets = importlib.import_module("datasets")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list("abcd"))}
        images = [PIL.Image.fromarray(image[..., 0]) for image in _IMAGES]
        table = {"image": images, "label": _ARRAYS[1].tolist()}
        table = datasets.Dataset.from_dict(table, features=datasets.Features(features))
        table.save_to_disk(tmp_path / "set")
        name = f"hf:{tmp_path / 'set'}"
        degraded.append(data.load(data.Source(name, test_split="train", **_PLAIN, **_DEGRADED)))
        assert "10 of class 0 ('a') to 3 of class 3 ('d')" in degraded[-1].summary.lines[1]
    for dataset in degraded[1:]:
        np.testing.assert_array_equal(dataset.train.labels, degraded[0].train.labels)
        np.testing.assert_array_equal(dataset.train.images, degraded[0].train.images)
    assert len(degraded[0].train) < 80


def test_versions_differ_between_degraded_data_and_contain_the_origin(data_dir):
    clean = _digits(data_dir)
    noises = [_digits(data_dir, label_noise=0.2, noise_seed=seed) for seed in (0, 0, 1)]
    assert noises[0].version == noises[1].version != noises[2].version
    assert noises[0].version.startswith("digits/2.0.0 with symmetric label_noise 0.2, noise_seed 0")
    assert clean.version == data.origin(clean.version) == data.origin(noises[2].version)
    for version in ("", "digits/2.0.0", "hf:/dogs with cats (2) 0a1b2c3d", "x with y 01234567"):
        assert data.origin(version) == version


def test_degraded_data_reopen_without_the_degradation():
    noisy = _arrays(**_DEGRADED)
    clean = noisy.reopen(data.Source(**_PLAIN))
    assert clean.version == data.origin(noisy.version)
    np.testing.assert_array_equal(clean.train.labels, _ARRAYS[1])


def test_impossible_long_tails_are_refused_and_longer_tails_cause_a_warning():
    for fields, message in (
        (
            {"per_class": 5, "share": 0.5},
            "data.per_class is 5, data.share 0.5 and data.imbal",
        ),
        ({"per_class": 5, "imbalance": 2.0}, "data.share 1 and data.imbalance 2"),
        ({"imbalance": 30.0}, "20 training images of class 0 no images of class 3 remain; set"),
        (
            {"imbalance": 2.0, "train_split": "train[:3]"},
            "no training images of class 3; add images",
        ),
    ):
        with pytest.raises(errors.InputError, match=message) as caught:
            _arrays(**fields)
        assert "\n" not in str(caught.value)
    (warning,) = (text for text in _arrays(imbalance=12.0).summary.warnings if "imbalance" in text)
    assert "imbalance is 12, but the ratio becomes 20 to 1: counts are rounded down" in warning
    assert not any("imbalance" in text for text in _arrays(imbalance=10.0).summary.warnings)


def _sources(**fields):
    config = launch.get_config("digits")
    config.update_from_flattened_dict({"data.dir": "x"} | fields)
    job = parse(config)
    return job.student.source, job.teachers[0].part.source, job


def test_teacher_data_follow_student_data_unless_overridden():
    fields = {f"data.{name}": value for name, value in _DEGRADED.items()}
    student, teacher, _ = _sources(**fields)
    for name, value in _DEGRADED.items():
        assert getattr(student, name) == getattr(teacher, name) == value
    clean = {"teacher.share": 1.0, "teacher.imbalance": 1.0, "teacher.label_noise": 0.0}
    student, teacher, job = _sources(**fields, **clean)
    assert student.is_degraded
    assert not teacher.is_degraded
    assert job.comparisons["alone"].source == student
    # The student alone has no teacher.
    assert job.comparisons["alone"].fields["teacher"]["label_noise"] is None
    student, teacher, _ = _sources(**{"data.per_class": 5})
    assert student.per_class == teacher.per_class == 5
    student, teacher, _ = _sources(**{"data.per_class": 5, "teacher.per_class": 0})
    assert (student.per_class, teacher.per_class) == (5, 0)
    student, teacher, _ = _sources(**{"teacher.label_noise": 0.1, "data.noise_seed": 3})
    assert (student.label_noise, teacher.label_noise, teacher.noise_seed) == (0, 0.1, 3)


def test_each_teacher_has_its_own_label_noise():
    config = launch.get_config("digits", "resnet8+resnet8-resnet8,kd")
    config.data.label_noise = 0.2
    config.teacher[1].label_noise = 0.0
    noises = [teacher.part.source.label_noise for teacher in parse(config).teachers]
    assert noises == [0.2, 0.0]


_SMALL = {
    "data.mock_examples": 0,
    "data.train_split": "train[:80]",
    "train.epochs": 1,
    "train.batch_size": 16,
    "train.eval_batch_size": 500,
}


def _small(data_dir, argument="smoke,tiny-tiny,kd", **fields):
    return launch.digits(argument, **{"data.dir": data_dir, **_SMALL, **fields})


@pytest.mark.usefixtures("one_device", "tiny_network")
@pytest.mark.long
def test_a_run_folder_accepts_only_the_label_noise_of_its_run(data_dir, tmp_path, capsys):
    noisy = {"data.label_noise": 0.2}
    config = _small(data_dir, "smoke,tiny,ce", **noisy)
    results = launch.run(config, tmp_path)
    assert "label noise: 16 of 80 training labels are wrong (symmetric" in capsys.readouterr().out
    summary = json.loads((tmp_path / "data.json").read_text())
    assert summary["degraded"]["wrong labels"] == 16
    assert launch.run(config, tmp_path) == results
    with pytest.raises(errors.InputError, match="holds a run of another config"):
        launch.run(_small(data_dir, "smoke,tiny,ce", **{"data.label_noise": 0.3}), tmp_path)
    # Simulates another version of rrd_jax that draws other noise for the same fields.
    source = dataclasses.replace(parse(config).student.source, noise_seed=5)
    with pytest.raises(errors.InputError, match="holds a run on digits.*but the data set is now"):
        launch.run(config, tmp_path, dataset=data.load(source))


@pytest.mark.long
@pytest.mark.usefixtures("one_device", "tiny_network")
def test_a_noisy_student_with_a_clean_teacher_is_evaluated_without_warnings(
    data_dir, tmp_path, capsys
):
    fields = {"data.label_noise": 0.2, "teacher.label_noise": 0.0, "teacher.epochs": None}
    launch.run(_small(data_dir, **fields), tmp_path)
    output = capsys.readouterr()
    assert "[teacher] training images: 80 of digits/2.0.0\n" in output.out
    assert "was trained on" not in output.err
    infos = [json.loads((p / "model.json").read_text()) for p in (tmp_path, tmp_path / "teacher")]
    trained_on = [info["training"]["dataset"] for info in infos]
    assert trained_on[0].startswith("digits/2.0.0 with symmetric label_noise 0.2")
    assert trained_on[1] == "digits/2.0.0"
    # This config has no label noise.
    rows = evaluate.run(parse(_small(data_dir)), tmp_path)
    assert "was trained on" not in capsys.readouterr().err
    assert [row["run"] for row in rows] == ["teacher", "student"]
    # In the longer run, the teacher, whose labels differ from the student's, is not retrained.
    launch.run(_small(data_dir, **fields | {"train.epochs": 2}), tmp_path)
    assert "is finished and keeps train.epochs=1" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.usefixtures("one_device", "tiny_network")
def test_the_teacher_cache_does_not_depend_on_labels(data_dir, tiny_teacher, tmp_path, capsys):
    shutil.copytree(tiny_teacher, tmp_path / "teacher")
    fields = {"teacher.checkpoint": str(tmp_path / "teacher"), "teacher.cache": "on"}

    def run(name, **overrides):
        launch.run(_small(data_dir, **fields, **overrides), tmp_path / name)
        output = capsys.readouterr()
        assert "was trained on" not in output.err
        return output.out

    assert "all views computed" in run("clean")
    assert "embeddings read from" in run("noisy", **{"data.label_noise": 0.4})
    assert "all views computed" in run("few", **{"data.share": 0.5})


@pytest.mark.long
@pytest.mark.usefixtures("one_device", "tiny_network")
def test_distill_trains_a_clean_teacher_and_a_noisy_student_on_arrays(capsys):
    fields = {"data.label_noise": 0.25, "teacher.label_noise": 0.0, "data.augment": "none"}
    result = rrd_jax.distill(
        teacher="tiny",
        student="tiny",
        train=_ARRAYS,
        test=_ARRAYS,
        objectives={"kd": 1.0},
        epochs=1,
        batch_size=16,
        fields=fields,
    )
    examples = result.dataset.train.examples
    assert (examples.labels != examples.true_labels).sum() == 20
    version = data.origin(result.dataset.version)
    assert f"80 of {version}\n" in capsys.readouterr().out
