"""Properties of all objectives on class scores and on relations."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import objectives, parallel
from rrd_jax.networks import Outputs
from rrd_jax.objectives.batch import SecondView
from rrd_jax.training import state
from tests.objectives import batches

_SMALL = {"dim": 6}
_BANK = {**_SMALL, "examples": 40}
# Name: (objective, options, loss of identical networks; None if the layers are drawn separately).
_CASES = {
    "kd": ("kd", {}, 0),
    "kd standardised": ("kd", {"standardize": True, "temperature": 2.0}, 0),
    "dkd": ("dkd", {}, 0),
    "wsld": ("wsld", {}, None),
    "dist": ("dist", {}, 0),
    "r2kd": ("r2kd", {}, 0),
    "cmkd": ("cmkd", {}, 0),
    "rld": ("rld", {}, None),
    "wttm": ("wttm", {}, None),
    "ttm at power 1": ("wttm", {"power": 1.0, "weighted": False}, 0),
    "ctkd": ("ctkd", {"steps_per_epoch": 2}, 0),
    "wkd": ("wkd", {"total_steps": 4}, None),
    "mlkd": ("mlkd", {}, None),
    "crld": ("crld", {"labels": 0.0, "across": 0.0, "confident_first": 0.0}, 0),
    "vrm": ("vrm", {}, 0),
    "rdd": ("rdd", {"total_steps": 20}, None),
    "sp": ("sp", {}, 0),
    "rkd": ("rkd", {}, 0),
    "pkt": ("pkt", {}, 0),
    "cc": ("cc", _SMALL, 0),
    "ckd": ("ckd", {}, 0),
    "ckd of groups": ("ckd", {"group": 2}, 0),
    "itrd": ("itrd", {}, None),
    "ega": ("ega", {"node": 0.0}, 0),
    "dcd": ("dcd", _SMALL, None),
    "crd fifo": ("crd", {**_SMALL, "negatives": 24}, None),
    "disco": ("disco", {"queue_size": 24}, None),
    "crd bank": ("crd", {**_BANK, "memory": "bank", "negatives": 16}, None),
    "rrd momentum": ("rrd", {**_BANK, "memory": "momentum", "queue_size": 16}, None),
    "rrd reference": ("rrd", {**_BANK, "memory": "momentum_reference", "queue_size": 16}, None),
}
_EVERY = pytest.mark.parametrize("case", _CASES)


def _mark_long_except(*quick):
    """Parametrizes a test over all cases; cases not in `quick` are marked as long."""
    long = [pytest.param(case, marks=pytest.mark.long) for case in _CASES if case not in quick]
    return pytest.mark.parametrize("case", [*quick, *long])


_BATCH = 8
_LABELS = batches.from_labels(np.arange(_BATCH) % 5, np.arange(_BATCH) * 3 + 1)


def _outputs(seed, width, classes=5):
    rng = np.random.default_rng(seed)

    def array(*shape):
        return np.asarray(rng.standard_normal((_BATCH, *shape)), np.float32)

    return Outputs(array(classes), array(width), (array(4, 4, 3), array(2, 2, width)))


_STUDENT = _outputs(0, 6)
# Widths differ only in these cases; the others share a compilation with equal networks.
_OTHER_WIDTH = {
    "sp",
    "rkd",
    "pkt",
    "ckd",
    "ckd of groups",
    "disco",
    "itrd",
    "ega",
    "crd fifo",
    "rrd momentum",
}


def _teacher(case):
    return _outputs(1, 7 if case in _OTHER_WIDTH else 6)


class _Case(NamedTuple):
    """An objective with its compiled functions.

    Attributes:
      objective: the objective.
      init: its compiled init.
      differentiate: (state, student, teacher, batch) -> ((mean loss, (losses, memory)), gradients
        for params, student and teacher).
    """

    objective: objectives.Objective
    init: Any
    differentiate: Any


@functools.cache
def _case(case):
    name, options, _ = _CASES[case]
    objective = objectives.create(name, **options)

    def mean(params, student, teacher, frozen, memory, batch):
        start = objectives.ObjectiveState(params, frozen, memory)
        # The outputs of the second view are those of the first with other classes.
        second = SecondView(*(z._replace(logits=z.logits[:, ::-1] + 1) for z in (student, teacher)))
        batch = batch._replace(second=second)
        losses, memory = objective.loss(start, student, teacher, batch)
        return jnp.mean(losses), (losses, memory)

    gradients = jax.jit(jax.value_and_grad(mean, (0, 1, 2), has_aux=True))

    def differentiate(start, student, teacher, batch=_LABELS):
        return gradients(start.params, student, teacher, start.frozen, start.memory, batch)

    return _Case(objective, jax.jit(objective.init), differentiate)


@functools.cache
def _start(case):
    return _case(case).init(jax.random.key(0), _STUDENT, _teacher(case))


@_EVERY
def test_student_and_layers_have_gradients_and_the_teacher_has_none(case):
    start = _start(case)
    (value, (losses, memory_after)), gradients = _case(case).differentiate(
        start, _STUDENT, _teacher(case)
    )
    layers, student_gradient, teacher_gradient = jax.device_get(gradients)
    assert losses.shape in ((), (_BATCH,))
    assert np.isfinite(value)
    assert value.dtype == jnp.float32
    chex.assert_trees_all_equal_shapes_and_dtypes(memory_after, start.memory)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(student_gradient)) > 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(teacher_gradient))
    # The bias of CKD shifts all embeddings, which changes no difference.
    unmoved = {"ckd": 1, "ckd of groups": 1}.get(case, 0)
    assert sum(np.abs(leaf).max() < 1e-6 for leaf in jax.tree.leaves(layers)) == unmoved


@pytest.mark.parametrize("case", ["kd", "dist", "sp", "crd fifo"])
def test_losses_and_memory_are_the_same_without_compilation(case):
    outputs = _STUDENT, _teacher(case)
    (_, expected), _ = _case(case).differentiate(_start(case), *outputs)
    actual = _case(case).objective.loss(_start(case), *outputs, _LABELS)
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-6)


@_EVERY
def test_identical_networks_have_the_least_loss_and_a_finite_gradient(case):
    start = _case(case).init(jax.random.key(0), _STUDENT, _STUDENT)
    if case == "cc":
        layer = start.params["student"]
        start = start._replace(params={"student": layer, "teacher": layer})
    (value, _), gradients = _case(case).differentiate(start, _STUDENT, _STUDENT)
    expected = _CASES[case][2]
    if expected is not None:
        np.testing.assert_allclose(value, expected, atol=1e-5)
    chex.assert_tree_all_finite((value, gradients))


def _with_row(outputs, row):
    """Returns outputs with row 2 of each array x replaced by row(x)."""

    def replace(x):
        x = x.copy()
        x[2] = row(x)
        return x

    return jax.tree.map(replace, outputs)


@_EVERY
def test_degenerate_features_give_finite_and_bounded_gradients(case):
    start = _start(case)
    # Zeros, a constant, one image without features, two equal images.
    degenerate = [
        lambda outputs: jax.tree.map(np.zeros_like, outputs),
        lambda outputs: jax.tree.map(lambda x: np.full_like(x, 0.3), outputs),
        lambda outputs: _with_row(outputs, lambda x: 0),
        lambda outputs: _with_row(outputs, lambda x: x[3]),
    ]
    for make in degenerate:
        student, teacher = make(_STUDENT), make(_teacher(case))
        for pair in ((student, _teacher(case)), (_STUDENT, teacher), (student, teacher)):
            (value, memory_after), gradients = jax.device_get(
                _case(case).differentiate(start, *pair)
            )
            leaves = jax.tree.leaves((value, memory_after, gradients))
            assert all(np.isfinite(leaf).all() for leaf in leaves)
            assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients)) < 1e4


# The losses depend on the order of the batch, or on the positions of the negatives.
_ORDERED = ("cc", "ckd of groups", "crd bank", "rrd reference")


@pytest.mark.parametrize("case", [case for case in _CASES if case not in _ORDERED])
def test_a_permuted_batch_has_permuted_losses(case):
    order = np.random.default_rng(0).permutation(_BATCH)
    permuted = jax.tree.map(lambda x: np.asarray(x)[order], (_STUDENT, _teacher(case), _LABELS))
    (_, (losses, memory_after)), _ = _case(case).differentiate(
        _start(case), _STUDENT, _teacher(case)
    )
    (_, (actual, memory_permuted)), _ = _case(case).differentiate(_start(case), *permuted)
    expected = losses[order] if losses.ndim else losses
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
    if case == "rrd momentum":
        chex.assert_trees_all_close(memory_permuted, memory_after, rtol=1e-5)


def test_cc_does_not_change_for_a_reversed_batch():
    backwards = jax.tree.map(lambda x: x[::-1], (_STUDENT, _teacher("cc")))
    (value, _), _ = _case("cc").differentiate(_start("cc"), _STUDENT, _teacher("cc"))
    (actual, _), _ = _case("cc").differentiate(_start("cc"), *backwards)
    np.testing.assert_allclose(actual, value, rtol=1e-5)


@_mark_long_except("kd", "rkd", "crd fifo")
def test_bfloat16_outputs_give_float32_losses_close_to_full_precision(case):
    start = _start(case)
    (expected, _), _ = _case(case).differentiate(start, _STUDENT, _teacher(case))
    halves = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), (_STUDENT, _teacher(case)))
    (actual, (_, memory_after)), gradients = _case(case).differentiate(start, *halves)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=0.1, atol=0.05)
    chex.assert_tree_all_finite((memory_after, gradients))
    chex.assert_trees_all_equal_dtypes(memory_after, start.memory)


# Losses without a memory differ only in operations that XLA partitions.
@pytest.mark.parametrize(
    "case", ["dist", "sp", "crd fifo", "crd bank", "rrd momentum", "rrd reference"]
)
def test_eight_devices_give_the_loss_gradients_and_memory_of_one_device(case):
    start = _start(case)
    expected = _case(case).differentiate(start, _STUDENT, _teacher(case))
    mesh = parallel.make_mesh()
    shape = state.TrainState(*[()] * 6, memory={"objective": start.memory}, key=())
    memory = jax.device_put(start.memory, parallel.state_shardings(mesh, shape).memory["objective"])
    spread = jax.device_put((_STUDENT, _teacher(case), _LABELS), parallel.split(mesh))
    actual = _case(case).differentiate(start._replace(memory=memory), *spread)
    chex.assert_trees_all_close(jax.device_get(actual), expected, rtol=1e-4, atol=1e-6)


@_EVERY
def test_initial_states_depend_only_on_the_key(case):
    first, again, other = (
        _case(case).init(jax.random.key(k), _STUDENT, _teacher(case)) for k in (0, 0, 1)
    )
    chex.assert_trees_all_equal(first, again)
    # The temperature of CTKD has a constant initial value.
    assert (
        not jax.tree.leaves(first.params)
        or case == "ctkd"
        or any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (first, other)), strict=True))
    )
