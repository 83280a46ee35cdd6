"""Drop path: blocks that are left out in training, for some images."""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest

from rrd_jax import errors, networks
from rrd_jax.networks import transformer, vit
from tests import fresh

_SMALL = functools.partial(vit.VisionTransformer, patch=4, width=8, depth=3, heads=2, pool="mean")


def rates(network, side=64):
    """Of all blocks that can be left out, in the order in which they are."""
    found = {}

    def record(call, args, kwargs, context):
        if isinstance(context.module, transformer.DropPath):
            found["/".join(context.module.path)] = context.module.rate
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        networks.summarize.__wrapped__(network, (side, side, 3))
    return found


# As timm has them: of the last block that is added to its input, and the step between blocks.
@pytest.mark.parametrize(
    ("name", "last", "step"),
    [
        ("vit_tiny_patch16_224", 0.2, 0.2 / 11),
        ("convnext_atto", 0.2, 0.2 / 11),
        ("regnety_002", 0.2, 0.2 / 12),
        ("efficientnet_b0", 0.2 * 14 / 16, 0.2 / 16),
        ("mobilenet_v3_small", 0.2 * 10 / 12, 0.2 / 12),
    ],
)
def test_rates_grow_in_proportion_with_depth(name, last, step):
    found = np.array(list(rates(networks.create(name, 10, drop_path=0.2)).values()))
    assert found[-1] == pytest.approx(last)
    np.testing.assert_allclose(found / step, np.round(found / step), atol=1e-6)
    assert np.all(np.diff(found) >= 0)
    assert set(rates(networks.create(name, 10)).values()) == {0.0}


def test_training_leaves_blocks_out_and_evaluation_does_not():
    network = _SMALL(num_classes=4, drop_path=0.5)
    variables = fresh.init(network, (8, 8, 3))
    images = np.random.default_rng(0).standard_normal((16, 8, 8, 3), np.float32)
    run = jax.jit(functools.partial(network.apply, train=True, mutable=["batch_stats"]))
    first, second, again = (
        run(variables, images, rngs=jax.random.key(seed))[0].logits for seed in (0, 1, 0)
    )
    np.testing.assert_array_equal(first, again)
    changed = np.any(np.asarray(first) != np.asarray(second), axis=-1)
    assert changed.any()
    np.testing.assert_array_equal(
        jax.jit(network.apply)(variables, images).logits,
        jax.jit(_SMALL(num_classes=4).apply)(variables, images).logits,
    )


def test_what_is_left_in_is_scaled_to_the_same_mean():
    x = np.ones((4000, 3), np.float32)
    layer = transformer.DropPath(0.25)
    y = np.asarray(layer.apply({}, x, train=True, rngs={"dropout": jax.random.key(0)}))
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
    assert np.all(y == y[:, :1])
    np.testing.assert_allclose(y.mean(), 1, atol=0.03)


def test_networks_that_leave_out_no_blocks_say_so():
    with pytest.raises(errors.InputError, match=r"^student.drop_path is 0.1, but 'resnet8' does"):
        networks.create("resnet8", 10, drop_path=0.1, prefix="student.options.")
    own = networks.adapt(nn.Dense(3), "mine")
    with pytest.raises(errors.InputError, match="'mine' is a custom network"):
        networks.check_drop_path(own, 0.1, "mine")
