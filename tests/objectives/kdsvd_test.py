import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import kdsvd
from tests import golden
from tests.objectives import golden_maps

pytestmark = pytest.mark.long


def test_the_loss_and_gradients_equal_the_golden_file_for_its_directions():
    file = golden.load("kdsvd")
    student, teacher = golden_maps.maps(file, "s"), golden_maps.maps(file, "t")
    directions = [jnp.asarray(file[f"out/v_t{i}"]) for i in range(3)]
    for expected, x in zip(directions, teacher, strict=True):
        actual, _ = kdsvd.principal_directions(x, 1)
        golden_maps.check_close(abs(jnp.sum(actual * expected, axis=1)), np.ones((4, 1)))

    def loss(params, student):
        return kdsvd.kdsvd_loss(student, teacher, directions=directions)

    value, (_, gradients) = golden_maps.jit_value_and_grad(loss)((), student)
    golden_maps.check_close(value, file["out/loss"])
    golden_maps.check_gradients(file, golden_maps.torch_map_gradients(gradients))


def _reference64(student, teacher, rank):
    def svd(x, count):
        x = np.asarray(x, np.float64).reshape(len(x), -1, x.shape[-1])
        _, s, v = np.linalg.svd(x, full_matrices=False)
        return v[:, :count], s[:, :count]

    total, before = 0.0, None
    for student_map, teacher_map in zip(student, teacher, strict=True):
        (actual, _), (expected, strength) = svd(student_map, rank + 3), svd(teacher_map, rank)
        expected = expected * np.where(expected.sum(-1, keepdims=True) < 0, -1, 1)
        strength = strength / np.linalg.norm(strength, axis=1, keepdims=True)
        pair = [np.zeros_like(expected), expected * strength[:, :, None]]
        for b, k in np.ndindex(*expected.shape[:2]):
            cosine = actual[b] @ expected[b, k]
            best = np.argmax(abs(cosine))
            pair[0][b, k] = actual[b, best] * np.sign(cosine[best]) * strength[b, k]
        if before is not None:
            r = [
                np.exp(-((x[:, :, :, None] - y[:, :, None, :]) ** 2) / 8)
                for x, y in zip(pair, before, strict=True)
            ]
            total = total + ((r[0] - r[1]) ** 2).sum((1, 2, 3))
        before = pair
    return total


@pytest.mark.parametrize("rank", [1, 2])
def test_the_loss_equals_float64_for_high_and_wide_maps(rank):
    shapes = [(3, 5, 4, 7), (3, 3, 2, 16), (3, 2, 4, 6)]
    student, teacher = golden_maps.normal(1, *shapes), golden_maps.normal(2, *shapes)
    actual = jax.jit(kdsvd.kdsvd_loss, static_argnames="rank")(student, teacher, rank=rank)
    np.testing.assert_allclose(actual, _reference64(student, teacher, rank), rtol=1e-4)


def test_the_gradient_equals_finite_differences():
    shapes = [(1, 3, 3, 4), (1, 2, 2, 9)]
    student, teacher = golden_maps.normal(5, *shapes), golden_maps.normal(6, *shapes)
    gradient = jax.jit(jax.grad(lambda s: jnp.sum(kdsvd.kdsvd_loss(s, teacher))))(student)
    along = golden_maps.normal(7, *shapes)
    actual = sum(jnp.sum(a * g) for a, g in zip(along, gradient, strict=True))
    step = 1e-5
    ends = [
        _reference64([np.asarray(s, np.float64) + sign * step * np.asarray(a, np.float64)
                      for s, a in zip(student, along, strict=True)], teacher, 1)
        for sign in (1, -1)
    ]  # fmt: skip
    np.testing.assert_allclose(actual, (ends[0] - ends[1])[0] / (2 * step), rtol=2e-3)


def test_equal_directions_and_no_directions_give_finite_gradients():
    # One map has one direction and two equal singular values of zero; the other has no direction.
    same = jnp.ones((2, 4, 4, 3))
    zero = jnp.zeros((2, 2, 2, 8))
    _, other = golden_maps.normal(0, same.shape, zero.shape)
    loss = jax.jit(jax.value_and_grad(lambda s, t: jnp.sum(kdsvd.kdsvd_loss(s, t))))
    for student in ([same, other], [same, zero], [jnp.eye(4)[None, None].repeat(2, 0)] * 2):
        teacher = [0.5 + x for x in student]
        value, gradient = loss(student, teacher)
        assert np.isfinite(value)
        assert all(np.isfinite(g).all() for g in gradient)


def test_maps_that_do_not_fit_are_refused():
    a, b, c = golden_maps.normal(0, (2, 4, 4, 3), (2, 2, 2, 8), (2, 2, 2, 7))
    with pytest.raises(errors.InputError, match=r"\[3, 8\] of the student and \[3, 7\]"):
        kdsvd.kdsvd_loss([a, b], [a, c])
    with pytest.raises(errors.InputError, match="rank is 4"):
        kdsvd.kdsvd_loss([a, b], [a, b], rank=4)
    with pytest.raises(errors.InputError, match="rank is 0"):
        objectives.create("kdsvd", rank=0)
