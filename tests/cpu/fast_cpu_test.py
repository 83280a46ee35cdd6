"""Train steps with and without `fast_cpu`, which may differ only by rounding."""

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
    """Builds the program of a plan; returns the program and the variables of the teacher."""
    plan, teacher = _plan(fast)
    mesh = parallel.make_mesh(jax.devices()[:1])
    compiled = program.build(
        plan, mesh, _IMAGE, _STEPS, resident=False, teacher=teacher, onednn_from=0
    )
    return compiled, fresh.init(teacher, _IMAGE)


def _run(fast):
    """Runs 50 steps; returns their losses, the final parameters, and the step function."""
    compiled, variables = _build(fast)
    state, rng, losses = compiled.create(0, variables), np.random.default_rng(0), []
    step = functools.partial(compiled.train_step)
    for i in range(_STEPS):
        batch = Batch(
            image=rng.integers(0, 256, (_BATCH, *_IMAGE), np.uint8),
            label=rng.integers(0, 4, _BATCH, np.int32),
            index=np.arange(_BATCH, dtype=np.int32) + i * _BATCH,
        )
        state, logged = step(state, variables, batch)
        losses.append(logged["loss"])
    return jax.device_get((losses, state.params, compiled.train_step))


def _lower(platform, monkeypatch, convolve):
    """Lowers a train step for a platform, compiled as for an accelerator."""

    def jit_for_mesh(function, mesh, fast_cpu, onednn, **keywords):
        del mesh, fast_cpu, onednn
        return jax.jit(convolve(function), **keywords)

    monkeypatch.setattr(compiling, "jit_for_mesh", jit_for_mesh)
    compiled, variables = _build(True)
    batch = Batch(
        image=jax.ShapeDtypeStruct((_BATCH, *_IMAGE), jnp.uint8),
        label=jax.ShapeDtypeStruct((_BATCH,), jnp.int32),
        index=jax.ShapeDtypeStruct((_BATCH,), jnp.int32),
    )
    traced = compiled.train_step.trace(compiled.abstract, variables, batch)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_a_train_step_for_an_accelerator_ignores_fast_cpu(platform, monkeypatch):
    text = _lower(platform, monkeypatch, lambda function: function)
    assert text == _lower(platform, monkeypatch, convolutions.plain)
    assert "stablehlo.convolution" in text
    assert text != _lower(platform, monkeypatch, convolutions.fast)


@pytest.mark.long
def test_fifty_steps_with_and_without_fast_cpu_are_equal(monkeypatch):
    monkeypatch.setattr(compiling, "_compiles_quickly", lambda: False)
    (losses, params, step), (plain_losses, plain_params, plain_step) = _run(True), _run(False)
    assert isinstance(step, compiling.OnednnJit)
    assert not isinstance(plain_step, compiling.OnednnJit)
    np.testing.assert_allclose(losses, plain_losses, rtol=1e-5)
    leaves = map(jax.tree.leaves, (params["student"], plain_params["student"]))
    largest = max(jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(plain_params["student"]))
    for leaf, other in zip(*leaves, strict=True):
        assert golden.relative(leaf, other) < 1e-5 or np.abs(leaf - other).max() < 1e-5 * largest
