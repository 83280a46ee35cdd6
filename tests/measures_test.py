"""What is measured of a finished run: against references, and of real runs."""

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

_N, _C, _D = 120, 5, 7


def _rows(seed, shape=(_N, _D)):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _subject(*, teacher=True, compares=True, seed=0, count=_N):
    """Answers that are right more often than not, on random images."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, _C, count).astype(np.int32)
    right = 2 * np.eye(_C, dtype=np.float32)[labels]
    student, other = (
        measures.NetworkOutputs(right + _rows(s, (count, _C)), _rows(s + 9, (count, _D)))
        for s in (seed + 1, seed + 2)
    )
    images = rng.integers(0, 256, (count, 40, 40, 3), np.uint8)
    names = tuple("abcde")
    return measures.RunOutputs(images, labels, names, student, other if teacher else None, compares)


# Alignment.


def test_correlation_is_that_of_each_pair_of_classes_by_scipy():
    logits = _rows(0, (_N, _C))
    found = alignment.correlation(logits)
    for i in range(_C):
        for j in range(_C):
            expected = scipy.stats.pearsonr(*logits.astype(np.float64)[:, [i, j]].T).statistic
            np.testing.assert_allclose(found[i, j], expected, rtol=1e-10, atol=1e-12)


def test_a_logit_that_never_changes_has_no_correlation():
    subject = _subject()
    subject.student.logits[:, 2] = -1
    values = alignment.compute(subject)
    missing = np.isnan(values["student_correlation"])
    np.testing.assert_array_equal(missing, (np.arange(_C) == 2)[:, None] | (np.arange(_C) == 2))
    assert 0 < values["correlation_gap"] < 2


def test_a_student_is_aligned_with_itself():
    subject = _subject()
    outputs = [subject.images, subject.labels, subject.class_names, *[subject.student] * 2]
    values = alignment.compute(measures.RunOutputs(*outputs))
    names = ("correlation_gap", "neighbour_agreement_mean", "cka_linear", "similarity_spearman")
    assert [values[name] for name in names] == pytest.approx([0, 1, 1, 1])


def test_alignment_says_on_how_many_images_it_is(monkeypatch):
    monkeypatch.setattr(alignment, "_MOST", 50)
    monkeypatch.setattr(alignment, "_MOST_CLASSES", 3)
    subject = _subject()
    values = alignment.compute(subject)
    assert (values["sampled"], values["total"]) == (50, _N)
    assert values["neighbour_agreement"].shape == values["images"].shape == (50,)
    assert values["neighbour_agreement_chance"] == 10 / 49
    picked = values["classes"]
    whole = alignment.correlation(subject.student.logits)
    np.testing.assert_allclose(
        values["student_correlation"], whole[np.ix_(picked, picked)], rtol=1e-6
    )
    gaps = np.abs(whole - alignment.correlation(subject.teacher.logits))
    expected = gaps.sum() / (_C * (_C - 1))  # over all classes
    assert values["correlation_gap"] == pytest.approx(expected)


def test_alignment_of_other_classes_or_without_embeddings_leaves_those_values_out():
    values = alignment.compute(_subject(compares=False))
    assert "cka_linear" in values
    assert "correlation_gap" not in values
    subject = _subject()
    bare = measures.NetworkOutputs(subject.student.logits, np.zeros((_N, 0), np.float32))
    values = alignment.compute(
        measures.RunOutputs(
            subject.images, subject.labels, subject.class_names, bare, subject.teacher
        )
    )
    assert "cka_linear" not in values
    assert "correlation_gap" in values


def test_alignment_needs_a_teacher_and_some_images():
    with pytest.raises(errors.InputError, match="the run has none: pass the teacher"):
        alignment.compute(_subject(teacher=False))
    with pytest.raises(errors.InputError, match="has 2 images, but relations need three"):
        alignment.compute(_subject(count=2))
    assert alignment.compute(_subject(count=3))["neighbours"] == 2


# Predictions.


def test_figures_of_predictions_are_those_of_sklearn():
    subject = _subject()
    values = predictions.compute(subject)
    for role, answers in (("student", subject.student), ("teacher", subject.teacher)):
        predicted = answers.logits.argmax(axis=1)
        np.testing.assert_array_equal(
            values[f"{role}_confusion"],
            sklearn_metrics.confusion_matrix(subject.labels, predicted),
        )
        recall = sklearn_metrics.recall_score(subject.labels, predicted, average=None)
        np.testing.assert_allclose(values[f"{role}_accuracy"], 100 * recall)
        assert values[f"{role}_balanced_accuracy"] == pytest.approx(100 * recall.mean())
        assert values[f"{role}_top1"] == pytest.approx(100 * np.mean(predicted == subject.labels))
        f1 = sklearn_metrics.f1_score(subject.labels, predicted, average=None)
        assert values[f"{role}_macro_f1"] == pytest.approx(100 * f1.mean())
        probabilities = scipy.special.softmax(answers.logits.astype(np.float64), axis=1)
        np.testing.assert_allclose(values[f"{role}_confidence"], probabilities.max(1), rtol=1e-6)


def test_a_class_without_images_has_no_accuracy():
    subject = _subject()
    subject.labels[subject.labels == 3] = 0
    values = predictions.compute(subject)
    assert np.isnan(values["student_accuracy"][3])
    rest = np.delete(values["student_accuracy"], 3)
    assert values["student_balanced_accuracy"] == pytest.approx(rest.mean())


def test_a_teacher_of_other_classes_is_left_out_of_predictions_and_calibration():
    subject = _subject(compares=False, count=20)
    for values in (predictions.compute(subject), calibration.compute(subject)):
        assert not [name for name in values if name.startswith(("teacher", "agree"))]
    values = tsne.compute(subject)
    assert "teacher" in values
    assert "teacher_prediction" not in values


# Calibration.


def test_reliability_is_that_of_sklearn():
    subject = _subject()
    values = calibration.compute(subject)
    probabilities = scipy.special.softmax(subject.student.logits.astype(np.float64), axis=1)
    right = probabilities.argmax(axis=1) == subject.labels
    shares, sure = sklearn_calibration.calibration_curve(right, probabilities.max(1), n_bins=15)
    there = values["student_count"] > 0
    np.testing.assert_allclose(values["student_accuracy"][there], shares)
    np.testing.assert_allclose(values["student_confidence"][there], sure)
    assert np.isnan(values["student_accuracy"][~there]).all()
    weights = values["student_count"][there] / _N
    assert values["student_ece"] == pytest.approx(np.sum(weights * np.abs(shares - sure)))
    expected = sklearn_metrics.log_loss(subject.labels, probabilities)
    assert values["student_nll"] == pytest.approx(expected)
    expected = np.mean(np.sum((probabilities - np.eye(_C)[subject.labels]) ** 2, axis=1))
    assert values["student_brier"] == pytest.approx(expected)


# t-SNE.


def test_tsne_is_the_same_each_time_and_keeps_clusters_together():
    labels = np.repeat([0, 1, 2], 20).astype(np.int32)
    rows = 20 * np.eye(3, 6, dtype=np.float32)[labels] + _rows(0, (60, 6))
    answers = measures.NetworkOutputs(rows[:, :3], rows)
    images = np.zeros((60, 8, 8, 1), np.uint8)
    subject = measures.RunOutputs(images, labels, ("a", "b", "c"), answers)
    values, again = tsne.compute(subject), tsne.compute(subject)
    np.testing.assert_array_equal(values["student"], again["student"])
    assert sklearn_metrics.silhouette_score(values["student"], labels) > 0.5
    assert values["thumbnails"].shape == images.shape
    assert values["sampled"] == values["total"] == 60
    assert "teacher" not in values


def test_tsne_of_a_collapsed_network_and_of_few_images_is_finite():
    subject = _subject(count=4)
    subject.student.embedding[:] = 0
    values = tsne.compute(subject)
    assert np.isfinite(values["student"]).all()
    assert values["student"].shape == (4, 2)
    with pytest.raises(errors.InputError, match="t-SNE needs three or more"):
        tsne.compute(_subject(count=2))


# Images.


@pytest.mark.parametrize("channels", [1, 3])
def test_thumbnails_are_means_of_what_they_show(channels):
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, channels), np.uint8)
    small = thumbnails.thumbnails(images)
    means = images.reshape(3, 32, 2, 32, 2, channels).mean(axis=(2, 4))
    assert np.abs(small - means).max() <= 1  # rounded twice, by rows and by columns
    assert thumbnails.thumbnails(small) is small


# Real runs.


@pytest.fixture(scope="module")
def runs(tiny_network, tiny_teacher, tmp_path_factory):
    """Workdirs of a small network: a teacher, its student, and one with the teacher's classifier.

    The student has its teacher as studies have theirs, in a folder that is linked.
    """
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(tiny_teacher, folder / "teacher")
    given = {"teacher.checkpoint": str(folder / "teacher")}
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        for method in ("kd", "simkd"):
            launch.run(launch.digits(f"smoke,tiny-tiny,{method}", **given), folder / method)
    _change(folder / "kd", checkpoint="")
    (folder / "kd" / "teacher").symlink_to(folder / "teacher")
    return folder


def _change(run, **teacher):
    """Other fields of the teacher in the config that a run keeps."""
    fields = json.loads((run / "config.json").read_text())
    fields["teacher"] |= teacher
    (run / "config.json").write_text(json.dumps(fields))


@pytest.fixture
def run(runs, tmp_path):
    """A copy of the distilled run."""
    return pathlib.Path(shutil.copytree(runs / "kd", tmp_path / "run", symlinks=True))


def test_a_run_is_measured_as_it_was_tested(runs):
    for name in ("kd", "simkd", "teacher"):
        subject = measures.run_outputs(runs / name)
        values = predictions.compute(subject)
        row = launch.rows(runs / name)[-1]
        assert values["student_top1"] == pytest.approx(row["test/top1"])
        assert calibration.compute(subject)["student_nll"] == pytest.approx(
            row["test/loss"], rel=1e-5
        )
        assert values["student_confusion"].sum() == len(subject) == 24
        if name != "teacher":
            assert values["agreement"] == pytest.approx(row["test/agreement"])
        else:
            assert subject.teacher is None
            assert "agreement" not in values
    assert subject.images.shape == (24, 8, 8, 1)
    assert subject.class_names == tuple("0123456789")


def test_answers_are_those_of_the_library(runs):
    subject = measures.run_outputs(runs / "simkd")  # whose logits are of its teacher's classifier
    said = library.load(runs / "simkd").predict(subject.images)
    np.testing.assert_allclose(subject.student.logits, said.logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(subject.student.embedding, said.embeddings, rtol=1e-5, atol=1e-6)


def test_a_data_set_can_be_given_as_it_is(runs):
    images = np.random.default_rng(1).integers(0, 256, (30, 8, 8, 1), np.uint8)
    split = images, np.arange(30) % 10
    dataset = data.from_sources(split, split, data.Source(image_size=8))
    subject = measures.run_outputs(runs / "kd", dataset=dataset)
    np.testing.assert_array_equal(subject.images, images)
    other = data.from_sources(split, split, data.Source(image_size=16))
    with pytest.raises(errors.InputError, match=r"is for 10 classes and images of \(8, 8, 1\)"):
        measures.run_outputs(runs / "kd", dataset=other)


def test_a_run_whose_teacher_is_gone_or_one_of_several_is_measured_without(run, capsys):
    (run / "teacher").unlink()
    assert measures.run_outputs(run).teacher is None
    fields = json.loads((run / "config.json").read_text())
    fields["teacher"] = [fields["teacher"] | {"checkpoint": str(run)}] * 2
    (run / "config.json").write_text(json.dumps(fields))
    assert measures.run_outputs(run).teacher is None
    said = capsys.readouterr().out
    assert "is measured without its teacher:" in said
    assert "without its 2 teachers" in said
    with pytest.raises(errors.InputError):
        measures.run_outputs(run, teacher=run / "teacher")


# Files.


@pytest.mark.parametrize("name", measures.MEASURES)
def test_what_was_measured_is_read_as_it_was_and_computed_once(run, name, monkeypatch):
    values = measures.measure(run, name)
    again, kept_values = measures.measure(run, name), measures.read(run, name)
    for found in (again, kept_values):
        assert list(found) == list(values)
        for key, value in values.items():
            np.testing.assert_array_equal(found[key], value)
            assert isinstance(found[key], np.ndarray) == isinstance(value, np.ndarray)
    assert [path.name for path in (run / "measures").iterdir()] == [f"{name}.npz"]
    monkeypatch.setitem(measures.MEASURES, name, lambda outputs: pytest.fail("computed again"))
    measures.measure(run, name)


def test_another_checkpoint_is_measured_anew(run, runs):
    before = measures.measure(run, "predictions")
    newest = sorted((runs / "teacher" / "checkpoints").glob("[0-9]*"))[-1]
    shutil.copytree(newest, run / "checkpoints" / "9999")
    assert measures.read(run, "predictions") is None
    after = measures.measure(run, "predictions")
    assert not np.array_equal(before["student_confidence"], after["student_confidence"])


def test_another_teacher_is_measured_anew(run):
    subject = measures.run_outputs(run)
    measures.measure(run, "alignment", subject)
    assert measures.read(run, "alignment", subject)
    itself = measures.run_outputs(run, teacher=run)
    assert measures.read(run, "alignment", itself) is None
    assert measures.measure(run, "alignment", itself)["cka_linear"] == pytest.approx(1)


def test_measures_outlive_checkpoints_but_not_another_version(run, monkeypatch):
    measures.measure(run, "calibration")
    monkeypatch.setattr(storage, "VERSION", 2)
    assert measures.read(run, "calibration") is None
    assert measures.measure(run, "calibration")
    shutil.rmtree(run / "checkpoints")
    assert measures.read(run, "calibration")["student_count"].sum() == 24


@pytest.mark.parametrize("damage", ["half", "bytes", "folder", "no origin"])
def test_a_damaged_file_is_one_line_and_measured_anew(run, damage, capsys):
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


def test_mistakes_are_one_line(run, tmp_path):
    with pytest.raises(errors.InputError, match="unknown measure 'tsen'; did you mean 'tsne'"):
        measures.measure(run, "tsen")
    with pytest.raises(errors.InputError, match="unknown measure 'tsen'"):
        measures.missing(run, ["tsen"])
    with pytest.raises(errors.InputError, match="is no workdir of a run"):
        measures.measure(tmp_path, "tsne")
    with pytest.raises(errors.InputError, match="run@best is no folder"):
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
