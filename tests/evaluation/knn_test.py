"""Nearest images, what two embeddings have of them in common, and votes: beside scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier

from rrd_jax import errors
from rrd_jax.evaluation import knn
from rrd_jax.evaluation import rows as parts


def _rows(seed, shape=(120, 7)):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _sorted(queries, rows=None):
    """[Q, N] indices by falling cosine, in float64; of a query itself the last."""
    cosines = cosine_similarity(queries.astype(np.float64), rows)
    if rows is None:
        np.fill_diagonal(cosines, -np.inf)
    return np.argsort(-cosines, axis=1)


@pytest.mark.parametrize("chunk", [None, 50])  # of 120: the last chunk is filled up
@pytest.mark.parametrize("few", [False, True])  # rows on the device: 56, 56 and the last 8
def test_nearest_rows_are_those_of_sorted_similarities(chunk, few, monkeypatch):
    if few:
        monkeypatch.setattr(knn, "_MAX_ELEMENTS", 7 * 56)
    rows, queries = _rows(0), _rows(1)
    indices, cosines = knn.nearest(rows, None, 9, chunk=chunk)
    np.testing.assert_array_equal(indices, _sorted(rows)[:, :9])
    expected = np.take_along_axis(cosine_similarity(rows.astype(np.float64)), indices, axis=1)
    np.testing.assert_allclose(cosines, expected, atol=1e-6)
    indices, _ = knn.nearest(queries, rows, 9, chunk=chunk)
    np.testing.assert_array_equal(indices, _sorted(queries, rows)[:, :9])


@pytest.mark.parametrize("few", [False, True])
def test_equal_rows_are_found_in_their_order_and_zeros_are_like_nothing(few, monkeypatch):
    if few:
        monkeypatch.setattr(knn, "_MAX_ELEMENTS", 3 * 2)
    rows = np.ones((5, 3), np.float32)
    assert knn.nearest(rows, None, 2)[0].tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]]
    rows[2] = 0
    indices, cosines = knn.nearest(rows, None, 4)
    assert indices[0, -1] == 2
    np.testing.assert_allclose(cosines[2], 0)


@pytest.mark.parametrize("k", [0, 5])
def test_more_neighbours_than_there_are_is_an_error(k):
    with pytest.raises(errors.InputError, match=f"k is {k}, but must be from 1 to .* 4"):
        knn.nearest(np.ones((5, 3), np.float32), None, k)


def test_neighbours_in_common_are_those_of_sorted_similarities():
    one, other = _rows(0), _rows(1)
    other += 2 * one
    pairs = zip(_sorted(one)[:, :10], _sorted(other)[:, :10], strict=True)
    expected = [len(set(ours) & set(theirs)) / 10 for ours, theirs in pairs]
    np.testing.assert_allclose(knn.agreement(one, other, 10), expected)


def test_equal_embeddings_agree_and_independent_ones_as_chance_has_it():
    rows = _rows(0, (400, 16))
    rotation = np.linalg.qr(_rows(1, (16, 16)))[0]
    assert knn.agreement(rows, rows, 10).min() == 1
    assert knn.agreement(rows, rows @ rotation, 10).mean() > 0.999
    independent = knn.agreement(rows, _rows(2, (400, 16)), 10)
    error = independent.std() / np.sqrt(len(rows))
    assert abs(independent.mean() - 10 / 399) < 4 * error


@pytest.fixture(scope="module")
def labelled():
    """Rows of four classes that overlap, and queries of the same."""
    labels = np.random.default_rng(0).integers(0, 4, 260)
    rows = _rows(1, (260, 6)) + 1.5 * np.eye(4, 6, dtype=np.float32)[labels]
    return rows[:60], rows[60:], labels[60:]


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_classes_are_those_of_sklearns_weighted_neighbours(labelled, temperature, monkeypatch):
    monkeypatch.setattr(parts, "_MAX_ELEMENTS", 4 * 25)  # 25 of 60 queries at a time
    queries, rows, labels = labelled
    found = knn.classify(queries, rows, labels, 4, temperature=temperature)
    assert list(found) == [10, 20, 100, 200]
    for k, classes in found.items():
        peer = KNeighborsClassifier(
            k,
            metric="cosine",
            algorithm="brute",
            weights=lambda distances: np.exp((1 - distances) / temperature),
        )
        peer.fit(rows.astype(np.float64), labels)
        np.testing.assert_array_equal(classes, peer.predict(queries.astype(np.float64)))
    assert any((classes != found[10]).any() for classes in found.values())  # k matters


def test_of_few_images_all_vote_and_extreme_temperatures_are_finite(labelled):
    queries, rows, labels = labelled
    few = knn.classify(queries, rows[:15], labels[:15], 4, (10, 200))
    np.testing.assert_array_equal(
        few[200], knn.classify(queries, rows[:15], labels[:15], 4, (15,))[15]
    )
    cold = knn.classify(queries, rows, labels, 4, (20,), temperature=1e-4)[20]
    np.testing.assert_array_equal(cold, labels[knn.nearest(queries, rows, 1)[0][:, 0]])
    with pytest.raises(errors.InputError, match="temperature"):
        knn.classify(queries, rows, labels, 4, temperature=0)
