"""The second view of images: its images, its forward passes, and the steps that combine with it."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives, optim, parallel
from rrd_jax.config import parse
from rrd_jax.data.augment import pipeline
from rrd_jax.data.augment.second_view import SecondView
from rrd_jax.objectives.batch import Batch
from rrd_jax.objectives.crld import crld_loss
from rrd_jax.objectives.parts.logits import Views, cross_entropy
from rrd_jax.teacher import step_outputs
from rrd_jax.training import state, step
from rrd_jax.training.recipe import Term
from tests import fresh, launch, tiny

_SHAPE, _SIZE = (8, 8, 3), 8
_MOMENTS = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)}


def _augment(second=None, kind="crop_flip"):
    second = second or SecondView()
    return pipeline.make_augment(kind, **_MOMENTS, pad=1, flip=True, second=second)


def _batch():
    rng = np.random.default_rng(0)
    return Batch(
        image=rng.integers(0, 256, (_SIZE, *_SHAPE), np.uint8),
        label=np.arange(_SIZE, dtype=np.int32) % 3,
        index=np.arange(_SIZE, dtype=np.int32) + 5,
    )


def test_second_views_depend_on_key_epoch_and_image_alone():
    batch, augment = _batch(), _augment()
    show = jax.jit(augment.show_second)
    views = show(jax.random.key(0), 3, batch.index, batch.image)
    assert views.shape == batch.image.shape
    assert views.dtype == jnp.float32
    order = np.arange(_SIZE)[::-1]
    reversed_views = show(jax.random.key(0), 3, batch.index[order], batch.image[order])
    np.testing.assert_array_equal(reversed_views[order], views)
    for other in (
        show(jax.random.key(1), 3, batch.index, batch.image),
        show(jax.random.key(0), 4, batch.index, batch.image),
    ):
        assert all(np.any(a != b) for a, b in zip(views, other, strict=True))


def test_second_views_without_changes_are_crops():
    batch, plain = _batch(), SecondView(policy="none", cutout=0.0)
    expected = pipeline.make_normalize(**_MOMENTS)(batch.image)
    views = _augment(plain, "none").show_second(
        jax.random.key(0), 0, batch.index, jnp.asarray(batch.image)
    )
    np.testing.assert_allclose(views, expected, atol=1e-5)
    squares = _augment(SecondView(policy="none"), "none").show_second(
        jax.random.key(0), 0, batch.index, jnp.asarray(batch.image)
    )
    changed = np.any(np.abs(squares - expected) > 1e-5, axis=-1)
    assert 0 < changed.mean() < 0.25
    # The square has the mean of the data, up to the rounding of a pixel.
    assert np.abs(squares[changed]).max() < 0.011


@functools.cache
def _networks():
    network = tiny.NETWORK(num_classes=3)
    return network, *(fresh.init(network, _SHAPE, seed) for seed in (0, 1))


def _start(terms):
    network, _, teacher = _networks()
    optimizer = optim.sgd(lambda step: 0.1)
    created = {name: term.objective for name, term in terms.items()}
    start = state.create(jax.random.key(0), network, created, optimizer, _SHAPE, network, teacher)
    return start, step.Task(network, terms, optimizer, _augment(), 5, step_outputs.live(network))


@pytest.mark.long
def test_a_step_compares_two_forward_passes_of_both_networks():
    network, _, teacher = _networks()
    terms = {name: Term(objectives.create(name)) for name in ("ce", "crld")}
    start, task = _start(terms)
    batch = _batch()
    after, logged = jax.jit(functools.partial(step.train_step, task))(start, teacher, batch)

    @jax.jit
    def expected(variables):
        augmented = step.augmented(task, start, batch)
        outputs, changed = network.apply(
            variables, augmented.image, train=True, mutable=["batch_stats"]
        )
        second, changed = network.apply(
            variables | changed, augmented.second_image, train=True, mutable=["batch_stats"]
        )
        taught = Views(
            *(network.apply(teacher, x).logits for x in (augmented.image, augmented.second_image))
        )
        losses = crld_loss(Views(outputs.logits, second.logits), taught)
        losses += cross_entropy(second.logits, batch.label)
        return jnp.mean(losses), changed["batch_stats"], augmented

    variables = {"params": start.params["student"], "batch_stats": start.batch_stats}
    loss, batch_stats, augmented = expected(variables)
    assert float(logged["loss/crld"]) == pytest.approx(float(loss), rel=1e-5)
    chex.assert_trees_all_close(after.batch_stats, batch_stats, rtol=1e-5)
    assert np.any(augmented.image != augmented.second_image)


@pytest.mark.long
@pytest.mark.parametrize("accumulate", [1, 2])
def test_eight_devices_give_the_step_of_one(accumulate):
    _, _, teacher = _networks()
    if accumulate > 1:
        # Each device needs an image of each microbatch.
        batch = jax.tree.map(lambda x: np.concatenate([x, x]), _batch())
        batch = batch._replace(index=np.arange(2 * _SIZE, dtype=np.int32))
    else:
        batch = _batch()
    names = ("ce", "mlkd", "crld", "vrm")
    results = []
    for devices in (1, 8):
        terms = {name: Term(objectives.create(name)) for name in names}
        start, task = _start(terms)
        task = dataclasses.replace(task, accumulate=accumulate)
        mesh = parallel.make_mesh(jax.devices()[:devices])
        placed = jax.device_put(batch, parallel.split(mesh))
        start, variables = jax.device_put((start, teacher), parallel.replicated(mesh))
        train_step = jax.jit(functools.partial(step.train_step, task))
        after, logged = train_step(start, variables, placed)
        results.append(jax.device_get((after.params, after.batch_stats, logged)))
    # The order of sums differs.
    chex.assert_trees_all_close(results[0][2], results[1][2], rtol=1e-4)
    chex.assert_trees_all_close(results[0][:2], results[1][:2], rtol=1e-3, atol=1e-4)


def test_mixing_and_caches_are_refused_with_a_second_view():
    config = launch.digits("smoke,resnet8-resnet8,crld")
    config.data.mix = "mixup"
    with pytest.raises(errors.InputError, match="'crld' compares two views of an image"):
        parse(config)
    config = launch.digits("smoke,resnet8-resnet8,crld")
    config.teacher.cache = "on"
    with pytest.raises(errors.InputError, match="'crld' compares a second view"):
        parse(config)
