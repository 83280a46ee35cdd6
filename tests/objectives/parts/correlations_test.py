import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import cmkd, dist, r2kd
from rrd_jax.objectives.parts import correlations


def _softmax64(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def _pearson64(x, y):
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)])


def _soft_ranks64(x, temperature):
    x = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    return 0.5 + (1 / (1 + np.exp((x[:, None] - x[:, :, None]) / temperature))).sum(-1)


def _spearman64(x, y, temperature):
    return _pearson64(_soft_ranks64(x, temperature), _soft_ranks64(y, temperature))


def _arrays(batch=6, classes=9):
    return 2 * np.random.default_rng(batch).standard_normal((2, batch, classes))


@pytest.mark.parametrize(("temperature", "beta", "gamma"), [(4, 2, 2), (1, 1, 1), (0.5, 0, 3)])
def test_dist_equals_float64(temperature, beta, gamma):
    student, teacher = _arrays()
    p_s, p_t = (_softmax64(x / temperature) for x in (student, teacher))
    within = (1 - _pearson64(p_s.T, p_t.T)).mean()
    expected = temperature**2 * (beta * (1 - _pearson64(p_s, p_t)) + gamma * within)
    options = {"temperature": temperature, "beta": beta, "gamma": gamma}
    actual = jax.jit(lambda s, t: dist.dist_loss(s, t, **options))(student, teacher)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_r2kd_equals_float64():
    student, teacher = _arrays()
    p_s, p_t = (_softmax64(x / 3) for x in (student, teacher))
    expected = 2 * (1 - _pearson64(p_s, p_t)) + 5 * (1 - _spearman64(student, teacher, 0.2))
    options = {"temperature": 3.0, "value": 2.0, "rank": 5.0, "rank_temperature": 0.2}
    actual = jax.jit(lambda s, t: r2kd.r2kd_loss(s, t, **options))(student, teacher)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("by_difficulty", [False, True])
def test_cmkd_equals_float64(by_difficulty):
    student, teacher = _arrays()
    p = _softmax64(teacher)
    hard = -(p * np.log(p)).sum(-1) / np.log(9)
    value, rank = (2 * (1 - hard), 5 * hard) if by_difficulty else (2, 5)
    expected = value * (1 - _pearson64(student, teacher))
    expected += rank * (1 - _spearman64(student, teacher, 0.2))
    options = {"value": 2.0, "rank": 5.0, "rank_temperature": 0.2, "by_difficulty": by_difficulty}
    actual = jax.jit(lambda s, t: cmkd.cmkd_loss(s, t, **options))(student, teacher)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_the_rank_correlation_depends_only_on_the_order():
    x = jnp.linspace(0.0, 3.0, 8)[None]
    for y, expected in ((jnp.exp(x), 1), (-jnp.square(x), -1)):
        actual = correlations.spearman(x, y, rank_temperature=1e-4)
        np.testing.assert_allclose(actual, expected, rtol=1e-5)
        assert abs(float(correlations.pearson(x, y)[0])) < 0.97


def test_the_correlations_do_not_depend_on_scale_and_shift():
    student, teacher = (jnp.asarray(x) for x in _arrays())
    expected = cmkd.cmkd_loss(student, teacher)
    np.testing.assert_allclose(cmkd.cmkd_loss(7 * student - 3, teacher), expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["dist", "r2kd", "cmkd"])
def test_a_constant_row_has_a_finite_loss_and_no_gradient(name):
    loss = {
        "dist": dist.dist_loss,
        "r2kd": r2kd.r2kd_loss,
        "cmkd": cmkd.cmkd_loss,
    }[name]
    _, teacher = (jnp.asarray(x) for x in _arrays())
    total = jax.jit(jax.value_and_grad(lambda s: jnp.sum(loss(s, teacher))))
    value, gradient = total(jnp.full_like(teacher, 0.1))
    assert np.isfinite(value)
    np.testing.assert_array_equal(gradient, 0)


def test_values_out_of_range_are_refused():
    with pytest.raises(errors.InputError, match="rank_temperature is 0"):
        objectives.create("cmkd", rank_temperature=0)
    with pytest.raises(errors.InputError, match="gamma is -1"):
        objectives.create("dist", gamma=-1)
    with pytest.raises(errors.InputError, match="value is nan"):
        objectives.create("r2kd", value=float("nan"))


def test_soft_ranks_at_low_temperature_are_ranks_with_averaged_ties():
    actual = correlations.soft_rank(
        jnp.asarray([[3.0, -1.0, 10.0, 2.0], [5.0, 5.0, 1.0, 1.0]]), 1e-3
    )
    np.testing.assert_allclose(actual, [[3, 1, 4, 2], [3.5, 3.5, 1.5, 1.5]], atol=1e-6)


# The comparisons run in 1, 2, 4 and 7 chunks.
@pytest.mark.parametrize("limit", [2**23, 3 * 7 * 7 - 1, 40, 1])
def test_soft_ranks_and_gradients_equal_the_formula(limit, monkeypatch):
    monkeypatch.setattr(correlations, "_COMPARISONS", limit)
    x, weight = (jnp.asarray(a) for a in np.random.default_rng(0).standard_normal((2, 3, 7)))

    def formula(x, temperature):
        return 0.5 + jnp.sum(jax.nn.sigmoid((x[..., None] - x[:, None]) / temperature), axis=-1)

    for temperature in (0.05, 0.5, 3.0):
        actual = correlations.soft_rank(x, temperature)
        np.testing.assert_allclose(actual, formula(x, temperature), rtol=1e-5)
        actual, expected = (
            jax.grad(lambda x, f=f, t=temperature: jnp.sum(weight * f(x, t)))(x)
            for f in (correlations.soft_rank, formula)
        )
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
