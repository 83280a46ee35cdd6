import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import rkd
from tests import golden


def _rkd64(student, teacher, distance, angle):
    def relate(x):
        size = len(x)
        d = np.array([[np.linalg.norm(x[i] - x[j]) for j in range(size)] for i in range(size)])
        angles = np.zeros((size, size, size))
        for i in range(size):
            for j in range(size):
                for k in range(size):
                    if i != j and i != k:
                        angles[i, j, k] = (x[j] - x[i]) @ (x[k] - x[i]) / (d[i, j] * d[i, k])
        return d / d[d > 0].mean(), angles

    def smooth_l1(x):
        return np.where(np.abs(x) < 1, 0.5 * x**2, np.abs(x) - 0.5).mean()

    (d_s, a_s), (d_t, a_t) = relate(student), relate(teacher)
    return distance * smooth_l1(d_s - d_t) + angle * smooth_l1(a_s - a_t)


@pytest.mark.parametrize(("batch", "scale"), [(3, 1.0), (6, 1e-3), (9, 1e3)])
def test_rkd_equals_float64_at_any_scale(batch, scale):
    rng = np.random.default_rng(batch)
    student, teacher = scale * rng.standard_normal((batch, 4)), rng.standard_normal((batch, 3))
    loss = jax.jit(functools.partial(rkd.rkd_loss, distance=2.0, angle=3.0))
    actual = loss(student, teacher)
    np.testing.assert_allclose(jnp.mean(actual), _rkd64(student, teacher, 2, 3), rtol=1e-5)


def test_the_loss_and_gradient_equal_the_golden_file():
    file = golden.load("rkd")
    loss = jax.value_and_grad(lambda student: jnp.mean(rkd.rkd_loss(student, file["in/f_t"])))
    value, gradient = jax.jit(loss)(file["in/f_s"])
    assert golden.relative(value, file["out/loss"]) < 1e-5
    assert golden.relative(gradient, file["grad/in/f_s"]) < 1e-5


def test_chunks_give_the_same_loss_and_gradient(monkeypatch):
    rng = np.random.default_rng(0)
    student, teacher = (jnp.asarray(rng.standard_normal((11, n)), jnp.float32) for n in (4, 3))
    # Two images have the same embedding.
    student = student.at[3].set(student[7])

    def total(student):
        losses = rkd.rkd_loss(student, teacher)
        return jnp.sum(jnp.sin(losses)), losses

    results = []
    # Chunks of all vertices, of 4 and of 1.
    for limit in (2**20, 11 * 11 * 4, 1):
        monkeypatch.setattr(rkd, "_AT_ONCE", limit)
        # A new function object forces a new trace.
        differentiate = jax.value_and_grad(lambda x: total(x), has_aux=True)
        results.append(jax.jit(differentiate)(student))
    ((_, expected), gradient), *others = results
    for (_, losses), other in others:
        np.testing.assert_allclose(losses, expected, rtol=1e-6)
        np.testing.assert_allclose(other, gradient, rtol=1e-5, atol=1e-6)


def test_the_triples_of_a_large_batch_need_little_memory():
    arrays = [jax.ShapeDtypeStruct((1024, n), "f") for n in (32, 64)]
    gradient = jax.grad(lambda *arrays: jnp.sum(rkd.rkd_loss(*arrays)))
    memory = jax.jit(gradient).lower(*arrays).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2**26 < 1024**3


def test_a_negative_weight_is_refused():
    with pytest.raises(errors.InputError, match="angle is -1"):
        objectives.create("rkd", angle=-1)
