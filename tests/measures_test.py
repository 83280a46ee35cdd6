"""Measures of finished runs, compared with references and with the metrics of real runs."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import scipy.special
import scipy.stats
from sklearn import calibration as sklearn_calibration
from sklearn import metrics as sklearn_metrics

from experiments import measures
from experiments.measures import (
    alignment,
    calibration,
    predictions,
    storage,
    thumbnails,
    tsne,
)
from rrd_jax import data, errors, library
from tests import launch
from tests.conftest import use_one_device

pytestmark = pytest.mark.long

_N, _C, _D = 120, 5, 7


def _rows(seed, shape=(_N, _D)):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _run_outputs(*, teacher=True, compares=True, seed=0, count=_N):
    """Returns outputs on random images that are correct more often than by chance."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, _C, count).astype(np.int32)
    correct = 2 * np.eye(_C, dtype=np.float32)[labels]
    student, other = (
        measures.NetworkOutputs(correct + _rows(s, (count, _C)), _rows(s + 9, (count, _D)))
        for s in (seed + 1, seed + 2)
    )
    images = rng.integers(0, 256, (count, 40, 40, 3), np.uint8)
    names = tuple("abcde")
    return measures.RunOutputs(images, labels, names, student, other if teacher else None, compares)


# Alignment.


def test_correlation_equals_that_of_scipy_for_each_pair_of_classes():
    logits = _rows(0, (_N, _C))
    actual = alignment.correlation(logits)
    for i in range(_C):
        for j in range(_C):
            expected = scipy.stats.pearsonr(*logits.astype(np.float64)[:, [i, j]].T).statistic
            np.testing.assert_allclose(actual[i, j], expected, rtol=1e-10, atol=1e-12)


def test_a_constant_logit_has_no_correlation():
    outputs = _run_outputs()
    outputs.student.logits[:, 2] = -1
    values = alignment.compute(outputs)
    missing = np.isnan(values["student_correlation"])
    np.testing.assert_array_equal(missing, (np.arange(_C) == 2)[:, None] | (np.arange(_C) == 2))
    assert 0 < values["correlation_gap"] < 2


def test_a_student_is_perfectly_aligned_with_itself():
    outputs = _run_outputs()
    outputs = dataclasses.replace(outputs, teacher=outputs.student)
    values = alignment.compute(outputs)
    names = ("correlation_gap", "neighbour_agreement_mean", "cka_linear", "similarity_spearman")
    assert [values[name] for name in names] == pytest.approx([0, 1, 1, 1])


def test_alignment_reports_the_number_of_sampled_images(monkeypatch):
    monkeypatch.setattr(alignment, "_MAX_IMAGES", 50)
    monkeypatch.setattr(alignment, "_MAX_CLASSES", 3)
    outputs = _run_outputs()
    values = alignment.compute(outputs)
    assert (values["sampled"], values["total"]) == (50, _N)
    assert values["neighbour_agreement"].shape == values["images"].shape == (50,)
    assert values["neighbour_agreement_chance"] == 10 / 49
    picked = values["classes"]
    correlation = alignment.correlation(outputs.student.logits)
    np.testing.assert_allclose(
        values["student_correlation"], correlation[np.ix_(picked, picked)], rtol=1e-6
    )
    gaps = np.abs(correlation - alignment.correlation(outputs.teacher.logits))
    # The gap includes all classes.
    expected = gaps.sum() / (_C * (_C - 1))
    assert values["correlation_gap"] == pytest.approx(expected)


def test_alignment_omits_values_for_different_classes_or_missing_embeddings():
    values = alignment.compute(_run_outputs(compares=False))
    assert "cka_linear" in values
    assert "correlation_gap" not in values
    outputs = _run_outputs()
    bare = measures.NetworkOutputs(outputs.student.logits, np.zeros((_N, 0), np.float32))
    values = alignment.compute(
        measures.RunOutputs(
            outputs.images, outputs.labels, outputs.class_names, bare, outputs.teacher
        )
    )
    assert "cka_linear" not in values
    assert "correlation_gap" in values


def test_alignment_needs_a_teacher_and_three_images():
    with pytest.raises(errors.InputError, match="the run has no teacher; pass teacher="):
        alignment.compute(_run_outputs(teacher=False))
    with pytest.raises(errors.InputError, match="has 2 images, but alignment needs at least 3"):
        alignment.compute(_run_outputs(count=2))
    assert alignment.compute(_run_outputs(count=3))["neighbours"] == 2


# Predictions.


def test_values_of_predictions_equal_those_of_sklearn():
    outputs = _run_outputs()
    values = predictions.compute(outputs)
    for role, network in (("student", outputs.student), ("teacher", outputs.teacher)):
        predicted = network.logits.argmax(axis=1)
        np.testing.assert_array_equal(
            values[f"{role}_confusion"],
            sklearn_metrics.confusion_matrix(outputs.labels, predicted),
        )
        recall = sklearn_metrics.recall_score(outputs.labels, predicted, average=None)
        np.testing.assert_allclose(values[f"{role}_accuracy"], 100 * recall)
        assert values[f"{role}_balanced_accuracy"] == pytest.approx(100 * recall.mean())
        assert values[f"{role}_top1"] == pytest.approx(100 * np.mean(predicted == outputs.labels))
        f1 = sklearn_metrics.f1_score(outputs.labels, predicted, average=None)
        assert values[f"{role}_macro_f1"] == pytest.approx(100 * f1.mean())
        probabilities = scipy.special.softmax(network.logits.astype(np.float64), axis=1)
        np.testing.assert_allclose(values[f"{role}_confidence"], probabilities.max(1), rtol=1e-6)


def test_a_class_without_images_has_no_accuracy():
    outputs = _run_outputs()
    outputs.labels[outputs.labels == 3] = 0
    values = predictions.compute(outputs)
    assert np.isnan(values["student_accuracy"][3])
    rest = np.delete(values["student_accuracy"], 3)
    assert values["student_balanced_accuracy"] == pytest.approx(rest.mean())


def test_predictions_and_calibration_omit_a_teacher_with_other_classes():
    outputs = _run_outputs(compares=False, count=20)
    for values in (predictions.compute(outputs), calibration.compute(outputs)):
        assert not [name for name in values if name.startswith(("teacher", "agree"))]
    values = tsne.compute(outputs)
    assert "teacher" in values
    assert "teacher_prediction" not in values


# Calibration.


def test_reliability_equals_that_of_sklearn():
    outputs = _run_outputs()
    values = calibration.compute(outputs)
    probabilities = scipy.special.softmax(outputs.student.logits.astype(np.float64), axis=1)
    is_correct = probabilities.argmax(axis=1) == outputs.labels
    shares, confidence = sklearn_calibration.calibration_curve(
        is_correct, probabilities.max(1), n_bins=15
    )
    used = values["student_count"] > 0
    np.testing.assert_allclose(values["student_accuracy"][used], shares)
    np.testing.assert_allclose(values["student_confidence"][used], confidence)
    assert np.isnan(values["student_accuracy"][~used]).all()
    weights = values["student_count"][used] / _N
    assert values["student_ece"] == pytest.approx(np.sum(weights * np.abs(shares - confidence)))
    expected = sklearn_metrics.log_loss(outputs.labels, probabilities)
    assert values["student_nll"] == pytest.approx(expected)
    expected = np.mean(np.sum((probabilities - np.eye(_C)[outputs.labels]) ** 2, axis=1))
    assert values["student_brier"] == pytest.approx(expected)


# t-SNE.


def test_tsne_is_deterministic_and_separates_clusters():
    labels = np.repeat([0, 1, 2], 20).astype(np.int32)
    rows = 20 * np.eye(3, 6, dtype=np.float32)[labels] + _rows(0, (60, 6))
    network = measures.NetworkOutputs(rows[:, :3], rows)
    images = np.zeros((60, 8, 8, 1), np.uint8)
    outputs = measures.RunOutputs(images, labels, ("a", "b", "c"), network)
    values, repeated = tsne.compute(outputs), tsne.compute(outputs)
    np.testing.assert_array_equal(values["student"], repeated["student"])
    assert sklearn_metrics.silhouette_score(values["student"], labels) > 0.5
    assert values["thumbnails"].shape == images.shape
    assert values["sampled"] == values["total"] == 60
    assert "teacher" not in values


def test_tsne_of_a_collapsed_network_and_of_few_images_is_finite():
    outputs = _run_outputs(count=4)
    outputs.student.embedding[:] = 0
    values = tsne.compute(outputs)
    assert np.isfinite(values["student"]).all()
    assert values["student"].shape == (4, 2)
    with pytest.raises(errors.InputError, match="t-SNE needs at least 3"):
        tsne.compute(_run_outputs(count=2))


# Images.


@pytest.mark.parametrize("channels", [1, 3])
def test_thumbnails_are_means_of_pixels(channels):
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, channels), np.uint8)
    small = thumbnails.thumbnails(images)
    means = images.reshape(3, 32, 2, 32, 2, channels).mean(axis=(2, 4))
    # Pillow rounds twice, for rows and for columns.
    assert np.abs(small - means).max() <= 1
    assert thumbnails.thumbnails(small) is small


# Real runs.


@pytest.fixture(scope="module")
def runs(tiny_network, tiny_teacher, tmp_path_factory):
    """Workdirs of a teacher, its student, and a student with the teacher's classifier.

    The workdir of the student contains a link to the teacher, as in studies.
    """
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(tiny_teacher, folder / "teacher")
    fields = {"teacher.checkpoint": str(folder / "teacher")}
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        for method in ("kd", "simkd"):
            launch.run(launch.digits(f"smoke,tiny-tiny,{method}", **fields), folder / method)
    _change(folder / "kd", checkpoint="")
    (folder / "kd" / "teacher").symlink_to(folder / "teacher")
    return folder


def _change(run, **teacher):
    """Changes fields of the teacher in the config of a run."""
    fields = json.loads((run / "config.json").read_text())
    fields["teacher"] |= teacher
    (run / "config.json").write_text(json.dumps(fields))


@pytest.fixture
def run(runs, tmp_path):
    """A copy of the distilled run."""
    return pathlib.Path(shutil.copytree(runs / "kd", tmp_path / "run", symlinks=True))


def test_measures_equal_the_metrics_of_the_run(runs):
    for name in ("kd", "simkd", "teacher"):
        outputs = measures.run_outputs(runs / name)
        values = predictions.compute(outputs)
        row = launch.rows(runs / name)[-1]
        assert values["student_top1"] == pytest.approx(row["test/top1"])
        assert calibration.compute(outputs)["student_nll"] == pytest.approx(
            row["test/loss"], rel=1e-5
        )
        assert values["student_confusion"].sum() == len(outputs) == 24
        if name != "teacher":
            assert values["agreement"] == pytest.approx(row["test/agreement"])
        else:
            assert outputs.teacher is None
            assert "agreement" not in values
    assert outputs.images.shape == (24, 8, 8, 1)
    assert outputs.class_names == tuple("0123456789")


def test_outputs_equal_those_of_the_library(runs):
    # The student of simkd uses the classifier of its teacher.
    outputs = measures.run_outputs(runs / "simkd")
    expected = library.load(runs / "simkd").predict(outputs.images)
    np.testing.assert_allclose(outputs.student.logits, expected.logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs.student.embedding, expected.embeddings, rtol=1e-5, atol=1e-6)


def test_a_data_set_can_be_passed(runs):
    images = np.random.default_rng(1).integers(0, 256, (30, 8, 8, 1), np.uint8)
    split = images, np.arange(30) % 10
    dataset = data.from_sources(split, split, data.Source(image_size=8))
    outputs = measures.run_outputs(runs / "kd", dataset=dataset)
    np.testing.assert_array_equal(outputs.images, images)
    other = data.from_sources(split, split, data.Source(image_size=16))
    with pytest.raises(errors.InputError, match=r"is for 10 classes and images of \(8, 8, 1\)"):
        measures.run_outputs(runs / "kd", dataset=other)


def test_a_run_with_a_missing_teacher_or_several_teachers_is_measured_without_teacher(run, capsys):
    (run / "teacher").unlink()
    assert measures.run_outputs(run).teacher is None
    fields = json.loads((run / "config.json").read_text())
    fields["teacher"] = [fields["teacher"] | {"checkpoint": str(run)}] * 2
    (run / "config.json").write_text(json.dumps(fields))
    assert measures.run_outputs(run).teacher is None
    output = capsys.readouterr().out
    assert "is measured without its teacher:" in output
    assert "without its 2 teachers" in output
    with pytest.raises(errors.InputError):
        measures.run_outputs(run, teacher=run / "teacher")


# Files.


@pytest.mark.parametrize("name", measures.MEASURES)
def test_a_stored_measure_equals_the_computed_measure_and_is_computed_once(run, name, monkeypatch):
    values = measures.measure(run, name)
    repeated, stored = measures.measure(run, name), measures.read(run, name)
    for actual in (repeated, stored):
        assert list(actual) == list(values)
        for key, value in values.items():
            np.testing.assert_array_equal(actual[key], value)
            assert isinstance(actual[key], np.ndarray) == isinstance(value, np.ndarray)
    assert [path.name for path in (run / "measures").iterdir()] == [f"{name}.npz"]
    monkeypatch.setitem(measures.MEASURES, name, lambda outputs: pytest.fail("computed again"))
    measures.measure(run, name)


def test_a_new_checkpoint_is_measured_again(run, runs):
    first = measures.measure(run, "predictions")
    newest = sorted((runs / "teacher" / "checkpoints").glob("[0-9]*"))[-1]
    shutil.copytree(newest, run / "checkpoints" / "9999")
    assert measures.read(run, "predictions") is None
    second = measures.measure(run, "predictions")
    assert not np.array_equal(first["student_confidence"], second["student_confidence"])


def test_another_teacher_is_measured_again(run):
    outputs = measures.run_outputs(run)
    measures.measure(run, "alignment", outputs)
    assert measures.read(run, "alignment", outputs)
    self_outputs = measures.run_outputs(run, teacher=run)
    assert measures.read(run, "alignment", self_outputs) is None
    assert measures.measure(run, "alignment", self_outputs)["cka_linear"] == pytest.approx(1)


def test_measures_remain_without_checkpoints_but_not_for_another_version(run, monkeypatch):
    measures.measure(run, "calibration")
    monkeypatch.setattr(storage, "VERSION", 2)
    assert measures.read(run, "calibration") is None
    assert measures.measure(run, "calibration")
    shutil.rmtree(run / "checkpoints")
    assert measures.read(run, "calibration")["student_count"].sum() == 24


@pytest.mark.parametrize("damage", ["half", "bytes", "folder", "no origin"])
def test_a_damaged_file_is_refused_with_one_line_and_measured_again(run, damage, capsys):
    measures.measure(run, "predictions")
    path = run / "measures" / "predictions.npz"
    content = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage == "no origin":
        np.savez(path, x=1)
    else:
        flipped = bytearray(content)
        for place in range(60, len(content), 7):
            flipped[place] ^= 255
        path.write_bytes(content[: len(content) // 2] if damage == "half" else flipped)
    with pytest.raises(errors.InputError, match="predictions.npz is damaged") as caught:
        measures.read(run, "predictions")
    assert "\n" not in str(caught.value)
    if damage == "folder":
        with pytest.raises(errors.DiskError, match="cannot be written"):
            measures.measure(run, "predictions")
        assert not [*path.parent.glob("*.part")]
    else:
        assert measures.missing(run, ["predictions"]) == ["predictions"]
        measures.measure(run, "predictions")
        assert capsys.readouterr().out.count("is damaged") == 2
        assert measures.missing(run, ["calibration", "predictions"]) == ["calibration"]
        assert measures.read(run, "predictions")


def test_mistakes_are_refused(run, tmp_path):
    with pytest.raises(errors.InputError, match="unknown measure 'tsen'; did you mean 'tsne'"):
        measures.measure(run, "tsen")
    with pytest.raises(errors.InputError, match="unknown measure 'tsen'"):
        measures.missing(run, ["tsen"])
    with pytest.raises(errors.InputError, match="is not the workdir of a run"):
        measures.measure(tmp_path, "tsne")
    with pytest.raises(errors.InputError, match="run@best is not a folder"):
        measures.measure(pathlib.Path(f"{run}@best"), "tsne")
    assert measures.read(tmp_path, "tsne") is None
    (run / "measures").write_text("")
    with pytest.raises(errors.DiskError, match="measures"):
        measures.measure(run, "calibration")


def test_files_are_read_without_jax(run):
    measures.measure(run, "tsne")
    code = (
        "import pathlib, sys; from experiments import measures;"
        f"print(sorted(measures.read(pathlib.Path({str(run)!r}), 'tsne'))[0], 'jax' in sys.modules)"
    )
    root = pathlib.Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["class_names", "False"], done.stderr
