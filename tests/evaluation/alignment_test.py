"""Alignment metrics and collapse of embeddings, compared with their definitions in float64."""

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics.pairwise import cosine_similarity

from rrd_jax.evaluation import alignment, rows


def _rows(seed, shape=(120, 7)):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture
def in_parts(monkeypatch):
    """A limit of 50 rows per chunk; the last chunk has 20 rows."""
    monkeypatch.setattr(rows, "_MAX_ELEMENTS", 7 * 50)
    assert [part.stop for part in rows.chunks(120, 7)] == [50, 100, 150]


def test_a_subset_of_rows_is_deterministic():
    np.testing.assert_array_equal(rows.subset(5, 9), np.arange(5))
    subset = rows.subset(1000, 100)
    np.testing.assert_array_equal(subset, rows.subset(1000, 100))
    assert len(np.unique(subset)) == 100
    assert (np.diff(subset) > 0).all()
    assert subset.max() > 900


def _cka(first, second):
    """Computes CKA by its definition, tr(KHLH) with the centering matrix H."""
    h = np.eye(len(first)) - 1 / len(first)
    kernels = [e.astype(np.float64) @ e.T.astype(np.float64) for e in (first, second)]
    hsic = [np.trace(kernels[a] @ h @ kernels[b] @ h) for a, b in ((0, 1), (0, 0), (1, 1))]
    return hsic[0] / np.sqrt(hsic[1] * hsic[2])


def test_cka_equals_its_definition(in_parts):
    first, second = _rows(0), _rows(1, (120, 3))
    second += first[:, :3] + 2
    assert alignment.linear_cka(first, second) == pytest.approx(_cka(first, second), rel=1e-9)


def test_cka_is_invariant_to_rotation_shift_and_scale():
    first = _rows(0)
    rotation = np.linalg.qr(_rows(1, (7, 7)))[0]
    assert alignment.linear_cka(first, first) == pytest.approx(1, abs=1e-9)
    assert alignment.linear_cka(first, 3 * first @ rotation + 5) == pytest.approx(1, abs=1e-5)
    assert alignment.linear_cka(first, _rows(2)) < 0.2
    assert np.isnan(alignment.linear_cka(first, np.ones_like(first)))


def test_rank_correlation_equals_that_of_scipy_over_all_pairs():
    first, second = _rows(0), _rows(1, (120, 3))
    second += first[:, :3]
    upper = np.triu_indices(120, 1)
    cosines = [cosine_similarity(e.astype(np.float64))[upper] for e in (first, second)]
    expected = scipy.stats.spearmanr(*cosines).statistic
    assert alignment.rank_correlation(first, second) == pytest.approx(expected, rel=1e-9)
    assert alignment.rank_correlation(first, second, max_rows=80) == pytest.approx(
        expected, abs=0.1
    )
    assert alignment.rank_correlation(first, 2 * first) == pytest.approx(1)
    assert np.isnan(alignment.rank_correlation(first, np.ones_like(first)))


@pytest.mark.parametrize("shape", [(120, 7), (7, 120)])
def test_effective_rank_is_the_exponential_entropy_of_the_singular_values(shape, in_parts):
    embeddings = _rows(0, shape) * np.linspace(0.01, 3, shape[1], dtype=np.float32) + 0.2
    values = np.linalg.svd(embeddings.astype(np.float64), compute_uv=False)
    expected = np.exp(scipy.stats.entropy(values / values.sum()))
    assert alignment.effective_rank(embeddings) == pytest.approx(expected, rel=1e-9)


def test_effective_rank_counts_dimensions():
    assert alignment.effective_rank(np.eye(9, 5)) == pytest.approx(5)
    assert alignment.effective_rank(np.ones((9, 5))) == pytest.approx(1)
    assert alignment.effective_rank(3 * _rows(0, (200, 1)) @ _rows(1, (1, 64))) == pytest.approx(
        1, abs=1e-4
    )
    assert np.isnan(alignment.effective_rank(np.zeros((9, 5))))


def test_deviation_is_the_scaled_standard_deviation_of_unit_rows(in_parts):
    embeddings = 5 * _rows(0) + 2
    unit = embeddings.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    expected = unit.std(axis=0).mean() * np.sqrt(7)
    assert alignment.deviation(embeddings) == pytest.approx(expected, rel=1e-9)
    assert alignment.deviation(np.full((9, 5), 3.0)) == pytest.approx(0, abs=1e-12)
    assert alignment.deviation(_rows(0, (4000, 32))) == pytest.approx(1, abs=0.02)


def test_a_student_equal_to_its_teacher_has_perfect_metrics():
    embeddings = _rows(0)
    values = alignment.compare(3 * embeddings, alignment.reference(embeddings))
    names = [*(f"neighbours_{k}" for k in (1, 10, 20)), "cka", "rank_correlation"]
    assert list(values) == [*names, "effective_rank", "deviation"]
    assert values == pytest.approx(
        dict(zip(names, (100, 100, 100, 1, 1), strict=True))
        | {
            "effective_rank": alignment.effective_rank(embeddings),
            "deviation": alignment.deviation(embeddings),
        }
    )


def test_undefined_metrics_are_omitted():
    teacher = alignment.reference(_rows(0, (15, 7)))
    values = alignment.compare(np.ones((15, 3), np.float32), teacher)
    assert list(values) == ["neighbours_1", "neighbours_10", "effective_rank", "deviation"]


def test_a_collapse_is_described_unless_the_teacher_has_collapsed_too():
    teacher = alignment.reference(_rows(0))
    constant = np.ones((120, 5), np.float32) + 1e-4 * _rows(1, (120, 5))
    for collapsed in (constant, np.zeros((120, 5), np.float32)):
        message = alignment.describe_collapse(alignment.compare(collapsed, teacher), teacher)
        assert "collapsed: effective rank" in message
        assert "deviation" in message
    assert not alignment.describe_collapse(alignment.compare(_rows(2), teacher), teacher)
    flat = alignment.reference(constant)
    assert not alignment.describe_collapse(alignment.compare(constant, flat), flat)
