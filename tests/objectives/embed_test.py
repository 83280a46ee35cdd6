import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.networks import Outputs
from rrd_jax.objectives import embed
from tests.objectives import batches


def _cosine64(student, teacher):
    lengths = np.linalg.norm(student, axis=-1) * np.linalg.norm(teacher, axis=-1)
    return 1 - (student * teacher).sum(-1) / lengths


def _smooth_l1_64(student, teacher):
    centered = teacher - teacher.mean(-1, keepdims=True)
    off = np.abs(student - centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5))
    return np.where(off < 2, off**2 / 4, off - 1).mean(-1)


@pytest.mark.parametrize(
    ("distance", "expected"), [("cosine", _cosine64), ("smooth_l1", _smooth_l1_64)]
)
def test_the_distances_equal_float64(distance, expected):
    student, teacher = 3 * np.random.default_rng(0).standard_normal((2, 6, 12))
    loss = jax.jit(embed.embed_loss, static_argnames="distance")
    actual = loss(*(jnp.asarray(a, jnp.float32) for a in (student, teacher)), distance=distance)
    np.testing.assert_allclose(actual, expected(student, teacher), rtol=1e-5)
    assert loss(jnp.zeros((2, 3)), jnp.ones((2, 3)), distance=distance).shape == (2,)


def test_the_loss_of_parallel_embeddings_is_zero():
    teacher = jnp.asarray(np.random.default_rng(0).standard_normal((4, 9)), jnp.float32)
    np.testing.assert_allclose(embed.embed_loss(3 * teacher, teacher), 0, atol=1e-13)


@pytest.mark.parametrize("head", ["linear", "mlp", "orthogonal"])
def test_a_head_of_the_teachers_width_is_trained_and_the_teacher_is_constant(head):
    rng = np.random.default_rng(0)
    student, teacher = (
        Outputs(jnp.zeros((5, 2)), jnp.asarray(rng.standard_normal((5, n)), jnp.float32))
        for n in (6, 7)
    )
    objective = objectives.create("embed", head=head)
    state = objective.init(jax.random.key(0), student, teacher)

    def loss(params, student, teacher):
        trained = state._replace(params=params)
        return objective.loss(trained, student, teacher, batches.NO_BATCH)[0].mean()

    params, student_gradient, teacher_gradient = jax.jit(jax.grad(loss, (0, 1, 2)))(
        state.params, student, teacher
    )
    assert all(np.any(leaf) for leaf in jax.tree.leaves(params))
    assert np.any(student_gradient.embedding)
    assert not np.any(teacher_gradient.embedding)


def test_invalid_options_are_refused():
    with pytest.raises(errors.InputError, match="unknown distance 'cosin'; did you mean 'cosine'"):
        objectives.create("embed", distance="cosin")
    with pytest.raises(errors.InputError, match="head_width is 4, but head is 'linear'"):
        objectives.create("embed", head_width=4)
