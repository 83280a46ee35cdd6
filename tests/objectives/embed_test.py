import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.networks import Outputs
from rrd_jax.objectives import embed
from rrd_jax.objectives.parts import projections, standardization
from tests.objectives import batches


def _cosine64(student, teacher):
    lengths = np.linalg.norm(student, axis=-1) * np.linalg.norm(teacher, axis=-1)
    return 1 - (student * teacher).sum(-1) / lengths


def _smooth_l1_64(student, teacher):
    centered = teacher - teacher.mean(-1, keepdims=True)
    off = np.abs(student - centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5))
    return np.where(off < 2, off**2 / 4, off - 1).mean(-1)


def _unic_64(student, teacher):
    off = np.abs(student - teacher)
    return (_cosine64(student, teacher) + np.where(off < 1, off**2 / 2, off - 0.5).mean(-1)) / 2


@pytest.mark.parametrize(
    ("distance", "expected"),
    [("cosine", _cosine64), ("smooth_l1", _smooth_l1_64), ("unic", _unic_64)],
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


def _features(rows=64, dim=12):
    rng = np.random.default_rng(3)
    mixed = rng.standard_normal((rows, dim)) @ rng.standard_normal((dim, dim)) + 5
    return Outputs(
        (), np.float32(mixed), patches=np.float32(mixed[:, None, None] * np.arange(1, dim + 1))
    )


@pytest.mark.parametrize("over", ["images", "both"])
@pytest.mark.parametrize("kind", ["channels", "phi_s"])
def test_measured_targets_equal_float64(kind, over):
    teacher = _features()
    student = teacher._replace(embedding=teacher.embedding[:, :7])
    objective = objectives.create("embed", distance="unic", over=over, standardize=kind)
    state = objective.measure(objective.init(jax.random.key(0), student, teacher), teacher, None)
    weights = state.params["images"] if over == "both" else state.params
    rows = teacher.embedding.astype(np.float64)
    centered = rows - rows.mean(0)
    if kind == "channels":
        targets = centered / centered.std(0)
    else:
        values, vectors = np.linalg.eigh(centered.T @ centered / len(rows))
        vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(12)])
        scale = np.sqrt(values.mean())
        targets = centered @ vectors @ standardization.hadamard(12).T / np.sqrt(12) / scale
        np.testing.assert_allclose(targets.std(0), 1, rtol=1e-9)
    embedding = projections.apply_head(weights, student.embedding)
    images = _unic_64(np.asarray(embedding, np.float64), targets)
    losses, memory = objective.loss(state, student, teacher, batches.NO_BATCH)
    chex.assert_trees_all_equal(memory, state.memory)
    if over == "images":
        np.testing.assert_allclose(losses, images, rtol=1e-4)
        # The head that is kept returns vectors in the units of the teacher.
        layer, is_unit = objective.head(state)
        assert not is_unit
        projected = projections.apply_head(layer, student.embedding)
        actual = standardization.apply(state.frozen, (), projected)
        np.testing.assert_allclose(actual, embedding, rtol=1e-3, atol=1e-4)
    else:
        assert (np.asarray(losses) > images).all()


def test_running_statistics_equal_float64():
    teacher = _features()
    objective = objectives.create("embed", distance="unic", standardize="running", total_steps=3)
    state = objective.init(jax.random.key(0), teacher, teacher)
    rows, mean, std = teacher.embedding.astype(np.float64), 0.0, 1.0
    for step in range(4):
        part = teacher._replace(embedding=teacher.embedding[16 * step : 16 * step + 16])
        losses, memory = objective.loss(state, part, part, batches.NO_BATCH)
        # The targets have the statistics of the earlier batches.
        batch = rows[16 * step : 16 * step + 16]
        embedding = projections.apply_head(state.params, part.embedding)
        expected = _unic_64(np.asarray(embedding, np.float64), (batch - mean) / std)
        np.testing.assert_allclose(losses, expected, rtol=1e-4)
        momentum = 0.001 + 0.999 * (1 + np.cos(np.pi * min(step / 3, 1))) / 2
        mean = (1 - momentum) * mean + momentum * batch.mean(0)
        std = (1 - momentum) * std + momentum * batch.std(0)
        state = state._replace(memory=memory)
    np.testing.assert_allclose(state.memory["mean"], mean, rtol=1e-5)


def test_features_that_cannot_be_standardized_are_refused():
    with pytest.raises(errors.InputError, match="unknown standardize 'phis'; did you mean 'phi_s'"):
        objectives.create("embed", standardize="phis")
    teacher = _features(dim=9)
    objective = objectives.create("embed", standardize="phi_s")
    with pytest.raises(errors.InputError, match="9 channels.*set standardize='channels'"):
        objective.init(jax.random.key(0), teacher, teacher)
    objective = objectives.create("embed", standardize="channels")
    constant = teacher._replace(embedding=np.ones((5, 9), np.float32))
    state = objective.init(jax.random.key(0), constant, constant)
    with pytest.raises(errors.InputError, match="features of 5 images or patches are all equal"):
        objective.measure(state, constant, None)
    outputs = _features(rows=12)
    objective = objectives.create("embed", standardize="phi_s")
    with pytest.raises(errors.InputError, match="at most 12 images .* more than the 12 channels"):
        objective.measure(objective.init(jax.random.key(0), outputs, outputs), outputs, None)
