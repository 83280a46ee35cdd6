"""Fifty steps of each optimizer compared with stored values of torch.optim and with PyTorch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rrd_jax import objectives, optim
from rrd_jax.networks import Outputs
from rrd_jax.training.choices import OptimizerChoice
from tests import golden
from tests.objectives import batches
from tests.optim import pytorch

_STORED = golden.load("torch_optim")
# Name in `pytorch.OPTIMIZERS`: the equivalent config fields and options.
_OURS = {
    "sgd": ({"momentum": 0.9, "weight_decay": 0.01}, {}),
    "nesterov": ({"momentum": 0.8, "nesterov": True, "weight_decay": 0.01}, {}),
    "adam": ({"weight_decay": 0.02}, {"b1": 0.8, "b2": 0.99, "eps": 1e-6}),
    "adamw": ({"weight_decay": 0.1}, {}),
    "rmsprop": ({"weight_decay": 0.01}, {}),
    "rmsprop_momentum": ({}, {"decay": 0.9, "momentum": 0.7, "eps": 1e-5}),
    "rmsprop_centered": ({}, {"centered": True, "momentum": 0.5}),
    "adamax": ({"weight_decay": 0.01}, {}),
}


def _trajectory(name):
    kind = "sgd" if name == "nesterov" else name.partition("_")[0]
    fields, options = _OURS[name]
    schedule = optim.create_schedule(
        "cosine",
        learning_rate=0.05,
        epochs=10,
        steps_per_epoch=5,
        warmup_epochs=1,
        warmup_start=0.005,
    )
    optimizer = optim.create(kind, schedule, options=options, **fields)
    start, noise = pytorch.problem()

    def step(carry, noise):
        params, state = carry
        updates, state = optimizer.update(0.1 * params + noise, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    params = jnp.asarray(start)
    return jax.jit(lambda: jax.lax.scan(step, (params, optimizer.init(params)), noise)[1])()


@pytest.mark.parametrize("name", _OURS)
def test_fifty_steps_equal_those_of_torch(name):
    assert golden.relative(_trajectory(name), _STORED[name]) < 1e-5


def test_the_stored_values_equal_those_of_torch():
    pytest.importorskip("torch")
    computed = pytorch.golden_arrays()
    assert set(computed) == set(_STORED)
    for name, value in computed.items():
        assert golden.relative(value, _STORED[name]) < 1e-5, name


class _Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.Dense(16, name="fc1")(nn.LayerNorm(name="norm")(x))
        return x + nn.Dense(8, name="fc2")(nn.gelu(y))


class _Vision(nn.Module):
    """The model of `pytorch.vision`."""

    @nn.compact
    def __call__(self, images, train):
        del train
        x = nn.Conv(8, (3, 3), name="stem")(images)
        for i in range(2):
            x = _Block(name=f"blocks_{i}")(x)
        x = nn.LayerNorm(name="norm")(x).mean((1, 2))
        return Outputs(nn.Dense(5, name="head")(x), x)


def _tree(weights):
    """Returns PyTorch's weights as the parameters of `_Vision`."""
    tree = {}
    for name, value in weights.items():
        *modules, entry = name.replace("blocks.", "blocks_").split(".")
        if entry == "weight":
            entry = "scale" if value.ndim == 1 else "kernel"
            value = np.transpose(value, (2, 3, 1, 0)) if value.ndim == 4 else value.T
        branch = tree
        for module in modules:
            branch = branch.setdefault(module, {})
        branch[entry] = jnp.asarray(value)
    return tree


def _train():
    choice = OptimizerChoice(
        learning_rate=pytorch.RATE,
        name="adamw",
        weight_decay=pytorch.DECAY,
        decay_norm_and_bias=False,
        clip_norm=0.5,
        layer_decay=0.7,
        schedule_name="cosine",
        warmup_epochs=1,
        warmup_start=0.1 * pytorch.RATE,
    )
    network, ce = _Vision(), objectives.create("ce", label_smoothing=0.1)
    weights, images, labels = pytorch.vision()
    steps_per_epoch = pytorch.WARMUP
    schedule = choice.schedule(pytorch.STEPS // steps_per_epoch, steps_per_epoch)
    scales = choice.block_scales("vision", network, (6, 6, 3))
    optimizer = optim.scaled(choice.transformation(schedule), scales, "student")

    def loss(params, images, labels):
        outputs = network.apply({"params": params["student"]}, images, train=True)
        state = ce.init(jax.random.key(0), outputs, None)
        return jnp.mean(ce.loss(state, outputs, None, batches.from_labels(labels))[0])

    @jax.jit
    def step(params, state, images, labels):
        value, gradients = jax.value_and_grad(loss)(params, images, labels)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    params, losses = {"student": _tree(weights), "objectives": {}}, []
    state = optimizer.init(params)
    for i in range(pytorch.STEPS):
        params, state, value = step(params, state, images[i], labels[i])
        losses.append(float(value))
    return params["student"], losses


def test_a_trained_vision_model_equals_that_of_torch():
    params, losses = _train()
    np.testing.assert_allclose(losses, _STORED["vision/losses"], rtol=1e-5)
    weights, *_ = pytorch.vision()
    expected = _tree({name: _STORED[f"vision/{name}"] for name in weights})
    differences = jax.tree.map(golden.relative, params, expected)
    assert max(jax.tree.leaves(differences)) < 1e-4, differences
