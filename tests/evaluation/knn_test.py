"""Nearest images, common neighbours and k-NN classification, compared with scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier

from rrd_jax import errors
from rrd_jax.evaluation import knn
from rrd_jax.evaluation import rows as parts


def _rows(seed, shape=(120, 7)):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _sort_by_similarity(queries, rows=None):
    """Returns indices [Q, N] by decreasing cosine, in float64; the query itself is last."""
    cosines = cosine_similarity(queries.astype(np.float64), rows)
    if rows is None:
        np.fill_diagonal(cosines, -np.inf)
    return np.argsort(-cosines, axis=1)


# With chunks of 50, the last chunk of 120 queries is padded. With splits, the device receives the
# rows as 56, 56 and 8.
@pytest.mark.parametrize("chunk", [None, 50])
@pytest.mark.parametrize("splits", [False, True])
def test_nearest_rows_equal_sorted_similarities(chunk, splits, monkeypatch):
    if splits:
        monkeypatch.setattr(knn, "_MAX_ELEMENTS", 7 * 56)
    rows, queries = _rows(0), _rows(1)
    indices, cosines = knn.nearest(rows, None, 9, chunk=chunk)
    np.testing.assert_array_equal(indices, _sort_by_similarity(rows)[:, :9])
    expected = np.take_along_axis(cosine_similarity(rows.astype(np.float64)), indices, axis=1)
    np.testing.assert_allclose(cosines, expected, atol=1e-6)
    indices, _ = knn.nearest(queries, rows, 9, chunk=chunk)
    np.testing.assert_array_equal(indices, _sort_by_similarity(queries, rows)[:, :9])


@pytest.mark.parametrize("splits", [False, True])
def test_equal_rows_are_returned_in_order_and_zero_rows_have_cosine_zero(splits, monkeypatch):
    if splits:
        monkeypatch.setattr(knn, "_MAX_ELEMENTS", 3 * 2)
    rows = np.ones((5, 3), np.float32)
    assert knn.nearest(rows, None, 2)[0].tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]]
    rows[2] = 0
    indices, cosines = knn.nearest(rows, None, 4)
    assert indices[0, -1] == 2
    np.testing.assert_allclose(cosines[2], 0)


@pytest.mark.parametrize("k", [0, 5])
def test_an_invalid_number_of_neighbours_is_refused(k):
    with pytest.raises(errors.InputError, match=f"k is {k}, but must be from 1 to .* 4"):
        knn.nearest(np.ones((5, 3), np.float32), None, k)


def test_the_share_of_common_neighbours_equals_that_of_sorted_similarities():
    first, second = _rows(0), _rows(1)
    second += 2 * first
    pairs = zip(
        _sort_by_similarity(first)[:, :10], _sort_by_similarity(second)[:, :10], strict=True
    )
    expected = [len(set(a) & set(b)) / 10 for a, b in pairs]
    np.testing.assert_allclose(knn.agreement(first, second, 10), expected)


def test_equal_embeddings_agree_fully_and_independent_embeddings_at_chance_level():
    rows = _rows(0, (400, 16))
    rotation = np.linalg.qr(_rows(1, (16, 16)))[0]
    assert knn.agreement(rows, rows, 10).min() == 1
    assert knn.agreement(rows, rows @ rotation, 10).mean() > 0.999
    independent = knn.agreement(rows, _rows(2, (400, 16)), 10)
    error = independent.std() / np.sqrt(len(rows))
    assert abs(independent.mean() - 10 / 399) < 4 * error


@pytest.fixture(scope="module")
def labelled():
    """Queries, rows of four overlapping classes, and the labels of the rows."""
    labels = np.random.default_rng(0).integers(0, 4, 260)
    rows = _rows(1, (260, 6)) + 1.5 * np.eye(4, 6, dtype=np.float32)[labels]
    return rows[:60], rows[60:], labels[60:]


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_classes_equal_those_of_weighted_neighbours_in_scikit_learn(
    labelled, temperature, monkeypatch
):
    # Batches of 25 of the 60 queries.
    monkeypatch.setattr(parts, "_MAX_ELEMENTS", 4 * 25)
    queries, rows, labels = labelled
    predictions = knn.classify(queries, rows, labels, 4, temperature=temperature)
    assert list(predictions) == [10, 20, 100, 200]
    for k, classes in predictions.items():
        peer = KNeighborsClassifier(
            k,
            metric="cosine",
            algorithm="brute",
            weights=lambda distances: np.exp((1 - distances) / temperature),
        )
        peer.fit(rows.astype(np.float64), labels)
        np.testing.assert_array_equal(classes, peer.predict(queries.astype(np.float64)))
    # The predictions depend on k.
    assert any((classes != predictions[10]).any() for classes in predictions.values())


def test_k_is_limited_to_the_number_of_images_and_low_temperatures_are_finite(labelled):
    queries, rows, labels = labelled
    classes = knn.classify(queries, rows[:15], labels[:15], 4, (10, 200))
    np.testing.assert_array_equal(
        classes[200], knn.classify(queries, rows[:15], labels[:15], 4, (15,))[15]
    )
    cold = knn.classify(queries, rows, labels, 4, (20,), temperature=1e-4)[20]
    np.testing.assert_array_equal(cold, labels[knn.nearest(queries, rows, 1)[0][:, 0]])
    with pytest.raises(errors.InputError, match="temperature"):
        knn.classify(queries, rows, labels, 4, temperature=0)
