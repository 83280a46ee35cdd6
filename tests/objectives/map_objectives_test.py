"""Properties of all objectives on feature maps, on toy networks and on shapes of real networks."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, networks, objectives, parallel
from tests.objectives import batches, toy

_BATCH = 8
_OPTIONS = {"semckd": {"batch_size": _BATCH}}
_NAMES = ("fitnet", "at", "nst", "pkth", "vid", "kdsvd", "ssim", "semckd", "reviewkd", "srrl",
          "simkd", "ab", "ft", "fsp")  # fmt: skip
# Objectives without adapters for equal channels.
_WITHOUT_ADAPTERS = ("at", "nst", "pkth", "kdsvd", "ssim", "fsp")
# SemCKD takes half as long to compile as all other objectives together, and has a golden test.
_EVERY = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.long) if name == "semckd" else name for name in _NAMES],
)


def _mark_long_except(*quick):
    """Parametrizes a test over all objectives; names not in `quick` are marked as long."""
    long = [pytest.param(name, marks=pytest.mark.long) for name in _NAMES if name not in quick]
    return pytest.mark.parametrize("name", [*quick, *long])


def test_every_objective_that_reads_maps_is_tested():
    assert {"srrl", *_names_with_maps()} - {"sp"} == set(_NAMES)


def _names_with_maps():
    for name, record in objectives.RECORDS.items():
        options = {"examples": 5} if "examples" in record.filled_in else {}
        if objectives.create(name, **options).needs_maps:
            yield name


class _Case(NamedTuple):
    """An objective with its compiled functions.

    Attributes:
      objective: the objective.
      init: its compiled init.
      differentiate: (state, student, teacher) -> (losses [L, B] of distillation and of the stage
        before it, gradients of their mean for params, frozen, student and teacher).
    """

    objective: objectives.Objective
    init: Any
    differentiate: Any


def _losses(objective, start, student, teacher):
    losses = [objective.loss(start, student, teacher, batches.NO_BATCH)[0]]
    if objective.stage:
        losses.append(objective.stage.loss(start, student, teacher, batches.NO_BATCH)[0])
    return jnp.stack(losses)


def _differentiate(objective, start, student, teacher):
    def mean(params, frozen, student, teacher):
        state = start._replace(params=params, frozen=frozen)
        losses = _losses(objective, state, student, teacher)
        return jnp.mean(losses), losses

    arguments = (start.params, start.frozen, student, teacher)
    (_, losses), gradients = jax.value_and_grad(mean, (0, 1, 2, 3), has_aux=True)(*arguments)
    return losses, gradients


@functools.cache
def _case(name):
    objective = objectives.create(name, **_OPTIONS.get(name, {}))
    differentiate = jax.jit(functools.partial(_differentiate, objective))
    return _Case(objective, jax.jit(objective.init), differentiate)


@functools.cache
def _start(name):
    return _case(name).init(jax.random.key(0), toy.outputs(0), toy.outputs(1))


@_EVERY
def test_losses_are_float32_per_example_and_the_teacher_is_constant(name):
    losses, gradients = _case(name).differentiate(_start(name), toy.outputs(0), toy.outputs(1))
    assert losses.dtype == jnp.float32
    assert losses.shape[1:] == (_BATCH,)
    params_gradient, _, student_gradient, teacher_gradient = jax.device_get(gradients)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(teacher_gradient))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(student_gradient))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params_gradient))


@pytest.mark.parametrize("name", ["at", "nst", "srrl", "ab"])
def test_losses_are_the_same_without_compilation(name):
    outputs = toy.outputs(0), toy.outputs(1)
    losses, _ = _case(name).differentiate(_start(name), *outputs)
    actual = _losses(_case(name).objective, _start(name), *outputs)
    np.testing.assert_allclose(actual, losses, rtol=1e-4, atol=1e-6)


@_mark_long_except("fitnet", "at", "nst", "srrl")
def test_bfloat16_maps_give_float32_losses_close_to_full_precision(name):
    expected, _ = _case(name).differentiate(_start(name), toy.outputs(0), toy.outputs(1))
    halves = (toy.outputs(seed, dtype=jnp.bfloat16) for seed in (0, 1))
    losses, (params_gradient, *_) = jax.device_get(_case(name).differentiate(_start(name), *halves))
    assert losses.dtype == np.float32
    assert np.isfinite(losses).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params_gradient))
    # Rounding may change the directions that KDSVD chooses.
    if name != "kdsvd":
        np.testing.assert_allclose(losses, expected, rtol=0.1, atol=0.02)


@_EVERY
@pytest.mark.parametrize("case", ["equal", "zero student", "zero both"])
def test_gradients_are_finite_for_equal_and_zero_maps(name, case):
    student = toy.outputs(0, scale=0.0 if case.startswith("zero") else 1.0)
    teacher = student if case != "zero student" else toy.outputs(1)
    losses, gradients = jax.device_get(_case(name).differentiate(_start(name), student, teacher))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((losses, gradients)))
    if case != "zero student" and name in _WITHOUT_ADAPTERS:
        np.testing.assert_allclose(losses, 0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in _NAMES if name != "semckd"])
def test_the_order_of_the_batch_changes_only_the_order_of_losses(name):
    order = np.random.default_rng(0).permutation(_BATCH)

    def permuted(outputs):
        moved = jax.tree.map(lambda x: np.asarray(x)[order], outputs._replace(head=()))
        return moved._replace(head=outputs.head)

    pair = toy.outputs(0), toy.outputs(1)
    actual, _ = _case(name).differentiate(_start(name), *map(permuted, pair))
    expected, _ = _case(name).differentiate(_start(name), *pair)
    np.testing.assert_allclose(actual, expected[:, order], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["kdsvd", "simkd", pytest.param("semckd", marks=pytest.mark.long)])
def test_a_batch_on_eight_devices_has_the_losses_of_one_device(name):
    student, teacher = toy.outputs(0), toy.outputs(1)
    mesh = parallel.make_mesh()
    split, replicated = parallel.split(mesh), parallel.replicated(mesh)
    placed = [
        jax.device_put(x._replace(head=()), split)._replace(head=jax.device_put(x.head, replicated))
        for x in (student, teacher)
    ]
    losses = jax.jit(functools.partial(_losses, _case(name).objective))
    actual = losses(jax.device_put(_start(name), replicated), *placed)
    expected, _ = _case(name).differentiate(_start(name), student, teacher)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


@functools.cache
def _shapes(name):
    outputs = networks.summarize(networks.create(name, 100), (32, 32, 3)).outputs

    def batched(leaf):
        return jax.ShapeDtypeStruct((_BATCH, *leaf.shape[1:]), leaf.dtype)

    batch = jax.tree.map(batched, outputs._replace(head=()))
    return batch._replace(head=outputs.head)


# The taps of the second pair have other numbers of channels.
_PAIRS = [("resnet32x4", "vgg8"), ("wrn_40_2", "wrn_40_1")]


@_EVERY
@pytest.mark.parametrize(("teacher", "student"), _PAIRS)
def test_real_networks_are_compared_or_refused(name, teacher, student):
    objective, pair = _case(name).objective, (_shapes(student), _shapes(teacher))
    if name in ("kdsvd", "fsp") and (teacher, student) == _PAIRS[1]:
        with pytest.raises(errors.InputError, match="the student's taps are .* the teacher's"):
            jax.eval_shape(objective.init, jax.random.key(0), *pair)
        return
    start = jax.eval_shape(objective.init, jax.random.key(0), *pair)
    losses, gradients = jax.eval_shape(functools.partial(_differentiate, objective), start, *pair)
    assert losses.shape == (1 + bool(objective.stage), _BATCH)
    assert jax.tree.map(jnp.shape, gradients[:2]) == jax.tree.map(jnp.shape, start[:2])
    if objective.predict:
        assert jax.eval_shape(objective.predict, start, pair[0]).shape == (_BATCH, 100)


_LARGE = ("mobilenetv1", "mobilenetv2", "resnet18", "shufflenetv2_x1_0")


@pytest.mark.parametrize(
    "name",
    ["resnet8", "wrn_16_1", "vgg8", "mobilenetv2_cifar", "shufflenetv1_cifar", "shufflenetv2_cifar",
     *(pytest.param(name, marks=pytest.mark.long) for name in _LARGE)],
)  # fmt: skip
def test_every_network_names_and_reports_its_classifier(name):
    network = networks.create(name, 7)
    summary = networks.summarize(network, (32, 32, 3))
    head = summary.outputs.head
    assert head["kernel"].shape == (summary.outputs.embedding.shape[1], 7)
    assert head["bias"].shape == (7,)
    variables = jax.eval_shape(
        functools.partial(networks.init, network, image_shape=(32, 32, 3)), jax.random.key(0)
    )
    assert networks.head(network, variables, (32, 32, 3)) == head
