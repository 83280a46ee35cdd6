"""The table of students without labels, and few labels."""

import json

import numpy as np
import pytest

from experiments import unlabelled_table
from rrd_jax import library
from rrd_jax.data import stratified
from rrd_jax.library import loading
from rrd_jax.teacher import labelled
from tests import launch

pytestmark = pytest.mark.usefixtures("one_device", "tiny_network")


@pytest.mark.long
def test_few_labels_are_asked_of_a_runs_embeddings_once(tiny_teacher, tmp_path, monkeypatch):
    fields = {"data.use_labels": False, "teacher.checkpoint": str(tiny_teacher)}
    launch.run(launch.digits("smoke,tiny-tiny,embed", **fields, **{"train.epochs": 1}), tmp_path)
    student = unlabelled_table.kept(tmp_path, "student", 3)
    teacher = unlabelled_table.kept(tmp_path, "teacher", 3)
    assert 0 <= student.pop("neighbours") <= 100
    assert list(student) == list(teacher)
    assert json.loads((tmp_path / "few_labels.json").read_text()).keys() == {"student", "teacher"}

    source = unlabelled_table._source(tmp_path)
    assert source.use_labels
    dataset = unlabelled_table._opened(source)
    rows = library.load(tmp_path).embed(dataset.train.images)
    queries = library.load(tmp_path).embed(dataset.test.images)
    places = stratified.of_each_class(dataset.train.labels, np.full(10, 1), seed=3)
    unit = [e / np.linalg.norm(e, axis=1, keepdims=True) for e in (queries, rows[places])]
    weights = np.exp(unit[0] @ unit[1].T / 0.07)  # of ten images or fewer, all vote
    votes = weights @ (dataset.train.labels[places][:, None] == np.arange(10))
    right = 100 * np.mean(votes.argmax(1) == dataset.test.labels)
    assert student["knn 1"] == pytest.approx(right)

    monkeypatch.setattr(labelled, "of_embeddings", None)  # it is not asked again
    assert unlabelled_table.kept(tmp_path, "teacher", 3) == teacher
    assert loading.fields_of(tmp_path)["data"]["use_labels"] is False


def test_the_table_has_a_mean_and_a_deviation_for_each_row():
    found = {
        ("teacher", "knn 1"): {0: 90.0, 1: 92.0},
        ("rrd, seed", "knn 1"): {0: 80.0},
        ("random weights", "tuned 1"): {0: 40.0, 1: 42.0},
    }
    header, rows = unlabelled_table.table(found)
    assert [row[0] for row in rows] == ["random weights", "rrd, seed", "teacher"]
    assert [row[header.index("10-NN, 1 a class")] for row in rows] == ["-", "80.0", "91.0 +- 1.4"]
    assert rows[0][header.index("fine-tuned, 1 a class")] == "41.0 +- 1.4"
