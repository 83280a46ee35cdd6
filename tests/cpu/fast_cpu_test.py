"""What `fast_cpu` changes: nothing but the time of a step, and the last digits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import networks, parallel
from rrd_jax.config import parse
from rrd_jax.cpu import compiling, convolutions
from rrd_jax.jobs import program
from rrd_jax.objectives.batch import Batch
from rrd_jax.training import recipe
from tests import fresh, golden, launch, tiny

_BATCH, _STEPS, _IMAGE = 16, 50, (16, 16, 3)


def _plan(fast):
    with tiny.registered():
        config = launch.digits("smoke,tiny-tiny,rrd+kd", fast_cpu=fast)
        config.data.mean = config.data.std = (0.5, 0.5, 0.5)
        config.train.batch_size = _BATCH
        plan = recipe.create(parse(config).student.training, 4, _STEPS * _BATCH)
        network = networks.create("tiny", 4)
    assert plan.training.fast_cpu == fast
    return dataclasses.replace(plan, student=network), network


def _build(fast):
    """A plan's program, with the teacher's variables."""
    plan, teacher = _plan(fast)
    mesh = parallel.make_mesh(jax.devices()[:1])
    built = program.build(
        plan, mesh, _IMAGE, _STEPS, resident=False, teacher=teacher, onednn_from=0
    )
    return built, fresh.init(teacher, _IMAGE)


def _run(fast):
    """Losses of 50 steps, the parameters after them, and the step."""
    built, variables = _build(fast)
    state, rng, losses = built.create(0, variables), np.random.default_rng(0), []
    step = functools.partial(built.train_step)
    for i in range(_STEPS):
        batch = Batch(
            image=rng.integers(0, 256, (_BATCH, *_IMAGE), np.uint8),
            label=rng.integers(0, 4, _BATCH, np.int32),
            index=np.arange(_BATCH, dtype=np.int32) + i * _BATCH,
        )
        state, logged = step(state, variables, batch)
        losses.append(logged["loss"])
    return jax.device_get((losses, state.params, built.train_step))


def _text(platform, monkeypatch, convolve):
    """A step's program for a platform, as one for an accelerator is compiled."""

    def jit_for_mesh(function, mesh, fast_cpu, onednn, **keywords):
        del mesh, fast_cpu, onednn
        return jax.jit(convolve(function), **keywords)

    monkeypatch.setattr(compiling, "jit_for_mesh", jit_for_mesh)
    built, variables = _build(True)
    batch = Batch(
        image=jax.ShapeDtypeStruct((_BATCH, *_IMAGE), jnp.uint8),
        label=jax.ShapeDtypeStruct((_BATCH,), jnp.int32),
        index=jax.ShapeDtypeStruct((_BATCH,), jnp.int32),
    )
    traced = built.train_step.trace(built.abstract, variables, batch)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_a_whole_step_for_an_accelerator_has_none_of_it(platform, monkeypatch):
    text = _text(platform, monkeypatch, lambda function: function)
    assert text == _text(platform, monkeypatch, convolutions.plain)
    assert "stablehlo.convolution" in text
    assert text != _text(platform, monkeypatch, convolutions.fast)


@pytest.mark.long
def test_fifty_steps_are_the_same_with_and_without(monkeypatch):
    monkeypatch.setattr(compiling, "_compiles_quickly", lambda: False)
    (losses, params, step), (wanted, others, ordinary) = _run(True), _run(False)
    assert isinstance(step, compiling.OnednnJit)
    assert not isinstance(ordinary, compiling.OnednnJit)
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)
    leaves = map(jax.tree.leaves, (params["student"], others["student"]))
    largest = max(jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(others["student"]))
    for leaf, other in zip(*leaves, strict=True):
        assert golden.relative(leaf, other) < 1e-5 or np.abs(leaf - other).max() < 1e-5 * largest
