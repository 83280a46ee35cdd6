"""What holds for every objective on class scores and on relations."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives, parallel, state
from rrd_jax.networks import Outputs

_SMALL = {"dim": 6}
_BANK = {**_SMALL, "examples": 40}
# Name: objective, options, loss of identical networks (None: of layers that are drawn apart).
_CASES = {
    "kd": ("kd", {}, 0),
    "kd standardised": ("kd", {"standardize": True, "temperature": 2.0}, 0),
    "dkd": ("dkd", {}, 0),
    "wsld": ("wsld", {}, None),
    "dist": ("dist", {}, 0),
    "r2kd": ("r2kd", {}, 0),
    "cmkd": ("cmkd", {}, 0),
    "sp": ("sp", {}, 0),
    "rkd": ("rkd", {}, 0),
    "pkt": ("pkt", {}, 0),
    "cc": ("cc", _SMALL, 0),
    "ckd": ("ckd", {}, 0),
    "itrd": ("itrd", {}, None),
    "ega": ("ega", {"node": 0.0}, 0),
    "dcd": ("dcd", _SMALL, None),
    "crd fifo": ("crd", {**_SMALL, "negatives": 24}, None),
    "crd bank": ("crd", {**_BANK, "memory": "bank", "negatives": 16}, None),
    "rrd momentum": ("rrd", {**_BANK, "memory": "momentum", "queue_size": 16}, None),
    "rrd reference": ("rrd", {**_BANK, "memory": "momentum_reference", "queue_size": 16}, None),
}
_EVERY = pytest.mark.parametrize("case", _CASES)
_BATCH = 8


def _outputs(seed, width, classes=5, scale=1.0):
    rng = np.random.default_rng(seed)

    def array(*shape):
        return jnp.asarray(scale * rng.standard_normal((_BATCH, *shape)), jnp.float32)

    return Outputs(array(classes), array(width), (array(4, 4, 3), array(2, 2, width)))


def _batch():
    return {
        "label": jnp.arange(_BATCH, dtype=jnp.int32) % 5,
        "index": jnp.arange(_BATCH, dtype=jnp.int32) * 3 + 1,
    }


def _create(case, student, teacher):
    name, options, _ = _CASES[case]
    objective = objectives.create(name, **options)
    return objective, objective.init(jax.random.key(0), student, teacher)


def _mean_loss(objective, state, batch):
    def loss(params, student, teacher):
        losses, left = objective.loss(state._replace(params=params), student, teacher, batch)
        assert losses.shape in ((), (_BATCH,))
        return jnp.mean(losses), left

    return loss


@_EVERY
def test_gradients_reach_student_and_layers_and_not_the_teacher_jitted_or_not(case):
    student, teacher = _outputs(0, 6), _outputs(1, 7)
    objective, start = _create(case, student, teacher)
    loss = jax.value_and_grad(_mean_loss(objective, start, _batch()), (0, 1, 2), has_aux=True)
    found = loss(start.params, student, teacher)
    jitted = jax.jit(loss)(start.params, student, teacher)
    chex.assert_trees_all_close(found, jitted, rtol=1e-5, atol=1e-6)
    (value, left), (layers, own, others) = found
    assert np.isfinite(value)
    assert value.dtype == jnp.float32
    chex.assert_trees_all_equal_shapes_and_dtypes(left, start.memory)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(own)) > 0
    chex.assert_trees_all_equal(others, jax.tree.map(jnp.zeros_like, others))
    unmoved = {"ckd": 1}.get(case, 0)  # a shift of all embeddings changes no difference
    assert sum(np.abs(leaf).max() < 1e-6 for leaf in jax.tree.leaves(layers)) == unmoved


@_EVERY
def test_identical_networks_have_the_least_loss_and_a_finite_gradient(case):
    outputs = _outputs(0, 6)
    objective, start = _create(case, outputs, outputs)
    params = start.params
    if case == "cc":
        params = {"student": params["student"], "teacher": params["student"]}
    loss = jax.jit(jax.value_and_grad(_mean_loss(objective, start, _batch()), (0, 1), has_aux=True))
    (value, _), gradients = loss(params, outputs, outputs)
    wanted = _CASES[case][2]
    if wanted is not None:
        np.testing.assert_allclose(value, wanted, atol=1e-5)
    chex.assert_tree_all_finite((value, gradients))


@_EVERY
def test_features_without_content_give_finite_gradients_that_are_no_explosion(case):
    outputs = _outputs(0, 6), _outputs(1, 6)
    objective, start = _create(case, *outputs)
    loss = jax.jit(jax.value_and_grad(_mean_loss(objective, start, _batch()), (0, 1), has_aux=True))
    zero, constant = (
        jax.tree.map(lambda x, v=v: jnp.full_like(x, v), outputs[0]) for v in (0, 0.3)
    )
    dead = jax.tree.map(lambda x: x.at[2].set(0), outputs[0])  # one image only
    twins = jax.tree.map(lambda x: x.at[2].set(x[3]), outputs[0])
    for empty in (zero, constant, dead, twins):
        for pair in ((empty, outputs[1]), (outputs[0], empty), (empty, empty)):
            (value, left), gradients = loss(start.params, *pair)
            chex.assert_tree_all_finite((value, left, gradients))
            assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients)) < 1e4


# Its value depends on the order, or on which negatives stand at which place of the batch.
_ORDERED = ("cc", "crd bank", "rrd reference")


@pytest.mark.parametrize("case", [case for case in _CASES if case not in _ORDERED])
def test_a_permuted_batch_has_permuted_losses(case):
    student, teacher, batch = _outputs(0, 6), _outputs(1, 7), _batch()
    objective, start = _create(case, student, teacher)
    order = np.random.default_rng(0).permutation(_BATCH)
    losses, left = objective.loss(start, student, teacher, batch)
    permuted, other = objective.loss(
        start, *jax.tree.map(lambda x: x[order], (student, teacher, batch))
    )
    np.testing.assert_allclose(
        permuted, losses[order] if losses.ndim else losses, rtol=1e-4, atol=1e-6
    )
    if case == "rrd momentum":
        chex.assert_trees_all_close(left, other, rtol=1e-5)


def test_cc_is_the_same_backwards():
    student, teacher = _outputs(0, 6), _outputs(1, 7)
    objective, start = _create("cc", student, teacher)
    forwards, _ = objective.loss(start, student, teacher, {})
    backwards = jax.tree.map(lambda x: x[::-1], (student, teacher))
    np.testing.assert_allclose(objective.loss(start, *backwards, {})[0], forwards, rtol=1e-5)


@_EVERY
def test_half_precision_outputs_give_float32_losses_near_the_full_ones(case):
    student, teacher = _outputs(0, 6), _outputs(1, 7)
    objective, start = _create(case, student, teacher)
    wanted, _ = _mean_loss(objective, start, _batch())(start.params, student, teacher)
    halves = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (student, teacher))
    loss = jax.jit(jax.value_and_grad(_mean_loss(objective, start, _batch()), (0, 1), has_aux=True))
    (found, left), gradients = loss(start.params, *halves)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, rtol=0.1, atol=0.05)
    chex.assert_tree_all_finite((left, gradients))
    chex.assert_trees_all_equal_dtypes(left, start.memory)


@_EVERY
def test_eight_devices_give_the_loss_gradients_and_memory_of_one(case):
    student, teacher, batch = _outputs(0, 6), _outputs(1, 7), _batch()
    objective, start = _create(case, student, teacher)

    def loss(params, frozen, memory, student, teacher, batch):
        own = objectives.ObjectiveState(params, frozen, memory)
        losses, left = objective.loss(own, student, teacher, batch)
        return jnp.mean(losses), left

    loss = jax.jit(jax.value_and_grad(loss, argnums=(0, 3), has_aux=True))
    arguments = (*start, student, teacher, batch)
    wanted = loss(*arguments)
    mesh = parallel.make_mesh()
    shape = state.TrainState(*[()] * 6, memory={"own": start.memory}, key=())
    memory = jax.device_put(start.memory, parallel.state_shardings(mesh, shape).memory["own"])
    spread = jax.device_put((student, teacher, batch), parallel.split(mesh))
    found = loss(start.params, start.frozen, memory, *spread)
    chex.assert_trees_all_close(jax.device_get(found), wanted, rtol=1e-4, atol=1e-6)


@_EVERY
def test_two_keys_start_apart_and_one_key_starts_alike(case):
    student, teacher = _outputs(0, 6), _outputs(1, 7)
    name, options, _ = _CASES[case]
    objective = objectives.create(name, **options)
    first, again, other = (objective.init(jax.random.key(k), student, teacher) for k in (0, 0, 1))
    chex.assert_trees_all_equal(first, again)
    assert not jax.tree.leaves(first.params) or any(
        np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (first, other)), strict=True)
    )


@_EVERY
def test_options_that_it_has_not_are_refused(case):
    with pytest.raises(errors.InputError, match="unknown option of objective"):
        objectives.create(_CASES[case][0], colour="blue")
