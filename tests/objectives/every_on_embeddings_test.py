"""What holds for every objective on class scores and on relations."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import objectives, parallel
from rrd_jax.networks import Outputs
from rrd_jax.training import state
from tests.objectives import batches

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


def _few(*quick):
    """Every case, those that are not named in the long tests only."""
    long = [pytest.param(case, marks=pytest.mark.long) for case in _CASES if case not in quick]
    return pytest.mark.parametrize("case", [*quick, *long])


_BATCH = 8
_LABELS = batches.of(np.arange(_BATCH) % 5, np.arange(_BATCH) * 3 + 1)


def _outputs(seed, width, classes=5):
    rng = np.random.default_rng(seed)

    def array(*shape):
        return np.asarray(rng.standard_normal((_BATCH, *shape)), np.float32)

    return Outputs(array(classes), array(width), (array(4, 4, 3), array(2, 2, width)))


_STUDENT = _outputs(0, 6)
# Lengths differ where that matters; elsewhere one compilation is also that of equal networks.
_OTHER_LENGTH = {"sp", "rkd", "pkt", "ckd", "itrd", "ega", "crd fifo", "rrd momentum"}


def _teacher(case):
    return _outputs(1, 7 if case in _OTHER_LENGTH else 6)


class _Case(NamedTuple):
    """An objective, its compiled init, and its compiled losses and gradients.

    `differentiate` is (state, student, teacher, batch) -> ((mean, (losses, memory)), gradients of
    params, student and teacher).
    """

    objective: objectives.Objective
    init: Any
    differentiate: Any


@functools.cache  # one compilation serves several tests
def _case(case):
    name, options, _ = _CASES[case]
    objective = objectives.create(name, **options)

    def mean(params, student, teacher, frozen, memory, batch):
        own = objectives.ObjectiveState(params, frozen, memory)
        losses, memory = objective.loss(own, student, teacher, batch)
        return jnp.mean(losses), (losses, memory)

    gradients = jax.jit(jax.value_and_grad(mean, (0, 1, 2), has_aux=True))

    def differentiate(own, student, teacher, batch=_LABELS):
        return gradients(own.params, student, teacher, own.frozen, own.memory, batch)

    return _Case(objective, jax.jit(objective.init), differentiate)


@functools.cache
def _start(case):
    return _case(case).init(jax.random.key(0), _STUDENT, _teacher(case))


@_EVERY
def test_gradients_reach_student_and_layers_and_not_the_teacher(case):
    start = _start(case)
    (value, (losses, left)), gradients = _case(case).differentiate(start, _STUDENT, _teacher(case))
    layers, of_student, of_teacher = jax.device_get(gradients)
    assert losses.shape in ((), (_BATCH,))
    assert np.isfinite(value)
    assert value.dtype == jnp.float32
    chex.assert_trees_all_equal_shapes_and_dtypes(left, start.memory)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(of_student)) > 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_teacher))
    unmoved = {"ckd": 1}.get(case, 0)  # a shift of all embeddings changes no difference
    assert sum(np.abs(leaf).max() < 1e-6 for leaf in jax.tree.leaves(layers)) == unmoved


@_few("kd", "dist", "sp", "crd fifo")
def test_losses_and_memory_are_the_same_without_compilation(case):
    outputs = _STUDENT, _teacher(case)
    (_, wanted), _ = _case(case).differentiate(_start(case), *outputs)
    found = _case(case).objective.loss(_start(case), *outputs, _LABELS)
    chex.assert_trees_all_close(found, wanted, rtol=1e-5, atol=1e-6)


@_EVERY
def test_identical_networks_have_the_least_loss_and_a_finite_gradient(case):
    start = _case(case).init(jax.random.key(0), _STUDENT, _STUDENT)
    if case == "cc":
        layer = start.params["student"]
        start = start._replace(params={"student": layer, "teacher": layer})
    (value, _), gradients = _case(case).differentiate(start, _STUDENT, _STUDENT)
    wanted = _CASES[case][2]
    if wanted is not None:
        np.testing.assert_allclose(value, wanted, atol=1e-5)
    chex.assert_tree_all_finite((value, gradients))


def _with_row(outputs, row):
    """Row 2 of everything replaced by row(x)."""

    def replace(x):
        x = x.copy()
        x[2] = row(x)
        return x

    return jax.tree.map(replace, outputs)


@_EVERY
def test_features_without_content_give_finite_gradients_that_are_no_explosion(case):
    start = _start(case)
    empty = [  # nothing, a constant, one image without features, two images that are the same
        lambda outputs: jax.tree.map(np.zeros_like, outputs),
        lambda outputs: jax.tree.map(lambda x: np.full_like(x, 0.3), outputs),
        lambda outputs: _with_row(outputs, lambda x: 0),
        lambda outputs: _with_row(outputs, lambda x: x[3]),
    ]
    for make in empty:
        student, teacher = make(_STUDENT), make(_teacher(case))
        for pair in ((student, _teacher(case)), (_STUDENT, teacher), (student, teacher)):
            (value, left), gradients = jax.device_get(_case(case).differentiate(start, *pair))
            leaves = jax.tree.leaves((value, left, gradients))
            assert all(np.isfinite(leaf).all() for leaf in leaves)
            assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients)) < 1e4


# Its value depends on the order, or on which negatives stand at which place of the batch.
_ORDERED = ("cc", "crd bank", "rrd reference")


@pytest.mark.parametrize("case", [case for case in _CASES if case not in _ORDERED])
def test_a_permuted_batch_has_permuted_losses(case):
    order = np.random.default_rng(0).permutation(_BATCH)
    permuted = jax.tree.map(lambda x: np.asarray(x)[order], (_STUDENT, _teacher(case), _LABELS))
    (_, (losses, left)), _ = _case(case).differentiate(_start(case), _STUDENT, _teacher(case))
    (_, (found, left_permuted)), _ = _case(case).differentiate(_start(case), *permuted)
    wanted = losses[order] if losses.ndim else losses
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    if case == "rrd momentum":
        chex.assert_trees_all_close(left_permuted, left, rtol=1e-5)


def test_cc_is_the_same_backwards():
    backwards = jax.tree.map(lambda x: x[::-1], (_STUDENT, _teacher("cc")))
    (value, _), _ = _case("cc").differentiate(_start("cc"), _STUDENT, _teacher("cc"))
    (found, _), _ = _case("cc").differentiate(_start("cc"), *backwards)
    np.testing.assert_allclose(found, value, rtol=1e-5)


@_few("kd", "rkd", "crd fifo")
def test_half_precision_outputs_give_float32_losses_near_the_full_ones(case):
    start = _start(case)
    (wanted, _), _ = _case(case).differentiate(start, _STUDENT, _teacher(case))
    halves = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), (_STUDENT, _teacher(case)))
    (found, (_, left)), gradients = _case(case).differentiate(start, *halves)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, rtol=0.1, atol=0.05)
    chex.assert_tree_all_finite((left, gradients))
    chex.assert_trees_all_equal_dtypes(left, start.memory)


@_few("dist", "sp", "crd fifo", "crd bank", "rrd momentum", "rrd reference")
def test_eight_devices_give_the_loss_gradients_and_memory_of_one(case):
    start = _start(case)
    wanted = _case(case).differentiate(start, _STUDENT, _teacher(case))
    mesh = parallel.make_mesh()
    shape = state.TrainState(*[()] * 6, memory={"own": start.memory}, key=())
    memory = jax.device_put(start.memory, parallel.state_shardings(mesh, shape).memory["own"])
    spread = jax.device_put((_STUDENT, _teacher(case), _LABELS), parallel.split(mesh))
    found = _case(case).differentiate(start._replace(memory=memory), *spread)
    chex.assert_trees_all_close(jax.device_get(found), wanted, rtol=1e-4, atol=1e-6)


@_EVERY
def test_two_keys_start_apart_and_one_key_starts_alike(case):
    first, again, other = (
        _case(case).init(jax.random.key(k), _STUDENT, _teacher(case)) for k in (0, 0, 1)
    )
    chex.assert_trees_all_equal(first, again)
    assert not jax.tree.leaves(first.params) or any(
        np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (first, other)), strict=True)
    )
