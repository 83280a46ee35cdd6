import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import rrd
from tests.objectives import batches


def _arrays(size, batch=6, dim=16, seed=0):
    rng = np.random.default_rng(seed)
    arrays = (rng.standard_normal((n, dim)) for n in (batch, batch, size))
    return [a / np.linalg.norm(a, axis=-1, keepdims=True) for a in arrays]


def _reference64(student, teacher, rows, tau_s, tau_t):
    """Loss [B], and its gradient for the student [B, D]."""
    log_p_s, log_p_t = (
        x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - x.max(-1, keepdims=True)
        for x in (student @ rows.T / tau_s, teacher @ rows.T / tau_t)
    )  # fmt: skip
    p_t = np.exp(log_p_t)
    return -(p_t * log_p_s).sum(-1), (np.exp(log_p_s) - p_t) @ rows / tau_s


def _loss(student, teacher, rows, tau_s, tau_t, chunk):
    return rrd.relational_loss(
        student, teacher, rows, temperature_student=tau_s, temperature_teacher=tau_t, chunk=chunk
    )


# A prime, less than a chunk, not a multiple of one, one row of each group at a time.
@pytest.mark.parametrize(("size", "chunk"), [(997, 100), (640, 1024), (1280, 768), (2048, 1)])
@pytest.mark.parametrize(("tau_s", "tau_t"), [(0.04, 0.1), (0.1, 0.02), (0.02, 0.5)])
def test_a_walk_equals_the_direct_form_and_float64(size, chunk, tau_s, tau_t):
    arrays = _arrays(size)
    wanted, gradient = _reference64(*arrays, tau_s, tau_t)
    arrays = [jnp.asarray(a, jnp.float32) for a in arrays]
    arrays_to_losses = jax.jit(_loss, static_argnums=(3, 4, 5))
    direct = arrays_to_losses(*arrays, tau_s, tau_t, 0)
    walked = arrays_to_losses(*arrays, tau_s, tau_t, chunk)
    np.testing.assert_allclose(walked, direct, rtol=1e-6)
    np.testing.assert_allclose(walked, wanted, rtol=2e-6)

    def total(student, chunk):
        return jnp.sum(_loss(student, *arrays[1:], tau_s, tau_t, chunk))

    value, found = jax.jit(jax.value_and_grad(total), static_argnums=1)(arrays[0], chunk)
    assert value == pytest.approx(float(jnp.sum(walked)), rel=1e-6)
    direct = jax.jit(jax.grad(total), static_argnums=1)(arrays[0], 0)
    largest = np.abs(gradient).max()
    np.testing.assert_allclose(found, gradient, atol=2e-6 * largest)
    np.testing.assert_allclose(direct, gradient, atol=4e-6 * largest)


def test_a_row_that_is_the_images_own_key_and_repeated_rows_are_counted_once_each():
    student, teacher, rows = _arrays(300)
    rows = np.concatenate([teacher, rows, teacher[:2], rows[:5]])
    arrays = [jnp.asarray(a, jnp.float32) for a in (student, teacher, rows)]
    wanted, _ = _reference64(student, teacher, rows, 0.1, 0.02)
    np.testing.assert_allclose(_loss(*arrays, 0.1, 0.02, 64), wanted, rtol=2e-6)


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_extreme_similarities_stay_finite(scale):
    student, teacher, rows = (jnp.asarray(a, jnp.float32) for a in _arrays(300))

    def total(student):
        return jnp.sum(_loss(student, teacher * scale, rows, 0.02, 0.02, 64))

    value, gradient = jax.jit(jax.value_and_grad(total))(student * scale)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_nothing_flows_to_teacher_and_memory():
    arrays = [jnp.asarray(a, jnp.float32) for a in _arrays(300)]
    found = jax.grad(lambda *a: jnp.sum(_loss(*a, 0.1, 0.1, 64)), argnums=(0, 1, 2))(*arrays)
    assert np.abs(found[0]).max() > 0
    np.testing.assert_array_equal(found[1], 0)
    np.testing.assert_array_equal(found[2], 0)


def test_a_million_rows_need_less_than_a_gigabyte_beside_themselves():
    rows, batch, dim = 1_048_576, 256, 128
    objective = objectives.create("rrd", queue_size=rows, dim=dim)
    outputs = _Outputs(jax.ShapeDtypeStruct((batch, 64), jnp.float32))
    state = jax.eval_shape(lambda: objective.init(jax.random.key(0), outputs, outputs))

    def step(memory, params, frozen, student, teacher):
        def mean(params):
            own = state._replace(params=params, frozen=frozen, memory=memory)
            losses, pushed = objective.loss(
                own, _Outputs(student), _Outputs(teacher), batches.NO_BATCH
            )
            return jnp.mean(losses), pushed

        return jax.value_and_grad(mean, has_aux=True)(params)

    compiled = (
        jax.jit(step, donate_argnums=0)
        .lower(state.memory, state.params, state.frozen, *[outputs.embedding] * 2)
        .compile()
    )
    assert compiled.memory_analysis().temp_size_in_bytes < 1e9
    assert f"{batch},{rows}" not in compiled.as_text()


class _Outputs:
    def __init__(self, embedding):
        self.embedding = embedding


def test_a_negative_chunk_is_refused():
    with pytest.raises(errors.InputError, match="chunk is -1"):
        objectives.create("rrd", chunk=-1)
