"""Networks with sharded weights: equal results, and no gathered weights kept for the gradient."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import networks, parallel
from rrd_jax.networks import vit
from rrd_jax.teacher import ensemble
from tests import fresh

_SHAPE, _WIDTH = (8, 8, 3), 32


class _Custom(nn.Module):
    """A network of other layers than those of rrd_jax."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(64)(x.reshape(len(x), -1)))
        return nn.Dense(4)(x), x


def _vit():
    return vit.VisionTransformer(4, patch=4, width=_WIDTH, depth=2, heads=2)


_NETWORKS = {
    "vit": _vit,
    "resnet": functools.partial(networks.create, "resnet8", 4),
    "custom": lambda: networks.adapt(_Custom(), "custom"),
}


def _compiled(network, variables, images):
    """Returns the compiled (variables, images) -> (loss, gradients)."""

    def loss(params, variables, images):
        options = {"train": True, "mutable": ["batch_stats"], "rngs": jax.random.key(0)}
        outputs, _ = network.apply(variables | {"params": params}, images, **options)
        return jnp.sum(outputs.logits**2)

    gradient = jax.jit(jax.value_and_grad(loss))
    lowered = gradient.lower(variables["params"], variables, images)
    compiled = lowered.compile()
    return compiled.as_text(), compiled(variables["params"], variables, images)


@pytest.mark.parametrize(
    ("name", "mode", "axes"),
    [
        ("vit", "none", ()),
        ("custom", "none", (("model", 4),)),
        ("vit", "all", ()),
        ("vit", "convolutions", (("model", 4),)),
        ("resnet", "none", ()),
        ("resnet", "convolutions", ()),
    ],
)
@pytest.mark.long
def test_sharded_weights_give_the_loss_and_the_gradients_of_replicated_weights(name, mode, axes):
    network = _NETWORKS[name]()
    variables = fresh.init(network, _SHAPE)
    images = np.random.default_rng(0).standard_normal((8, *_SHAPE)).astype(np.float32)
    _, expected = _compiled(network, variables, images)
    mesh = parallel.make_mesh(axes=axes)
    shardings = parallel.weight_shardings(mesh, variables, fully=not axes)
    placed = jax.device_put(variables, shardings), jax.device_put(images, parallel.split(mesh))
    sharded = parallel.gathered(mesh, network, fully=not axes)
    program, actual = _compiled(networks.remat(network, mode, sharded), *placed)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), actual, expected
    )
    if name == "vit":
        # Each layer gathers its weights twice, forward and backward.
        gathers = re.findall(rf"f32\[{_WIDTH},{3 * _WIDTH}\]\S* all-gather", program)
        assert len(gathers) == 2 * 2


@pytest.mark.long
def test_an_ensemble_gathers_the_weights_of_its_members():
    members = (_vit(), _vit())
    network = ensemble.Ensemble(members, (0.5, 0.5))
    variables = ensemble.stack_variables([fresh.init(member, _SHAPE) for member in members])
    mesh, images = parallel.make_mesh(), np.ones((8, *_SHAPE), np.float32)
    placed = jax.device_put(variables, parallel.weight_shardings(mesh, variables, fully=True))
    apply = jax.jit(parallel.gathered(mesh, network, fully=True).apply)
    logits = network.apply(variables, images).logits
    np.testing.assert_allclose(apply(placed, images).logits, logits, rtol=1e-4, atol=1e-6)
    assert "all-gather" in apply.lower(placed, images).compile().as_text()
