"""Drop path: residual blocks that are skipped for some images in training."""

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
    """Returns the drop rate of each DropPath module by its path, in call order."""
    rates_by_path = {}

    def record(call, args, kwargs, context):
        if isinstance(context.module, transformer.DropPath):
            rates_by_path["/".join(context.module.path)] = context.module.rate
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        networks.summarize.__wrapped__(network, (side, side, 3))
    return rates_by_path


# Rates of timm: of the last residual block, and the difference between consecutive blocks.
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
def test_rates_grow_linearly_with_depth(name, last, step):
    actual = np.array(list(rates(networks.create(name, 10, drop_path=0.2)).values()))
    assert actual[-1] == pytest.approx(last)
    np.testing.assert_allclose(actual / step, np.round(actual / step), atol=1e-6)
    assert np.all(np.diff(actual) >= 0)
    assert set(rates(networks.create(name, 10)).values()) == {0.0}


def test_blocks_are_skipped_in_training_but_not_in_evaluation():
    network = _SMALL(num_classes=4, drop_path=0.5)
    variables = fresh.init(network, (8, 8, 3))
    images = np.random.default_rng(0).standard_normal((16, 8, 8, 3), np.float32)
    run = jax.jit(functools.partial(network.apply, train=True, mutable=["batch_stats"]))
    first, second, repeated = (
        run(variables, images, rngs=jax.random.key(seed))[0].logits for seed in (0, 1, 0)
    )
    np.testing.assert_array_equal(first, repeated)
    changed = np.any(np.asarray(first) != np.asarray(second), axis=-1)
    assert changed.any()
    np.testing.assert_array_equal(
        jax.jit(network.apply)(variables, images).logits,
        jax.jit(_SMALL(num_classes=4).apply)(variables, images).logits,
    )


def test_kept_values_are_scaled_to_preserve_the_mean():
    x = np.ones((4000, 3), np.float32)
    layer = transformer.DropPath(0.25)
    y = np.asarray(layer.apply({}, x, train=True, rngs={"dropout": jax.random.key(0)}))
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
    assert np.all(y == y[:, :1])
    np.testing.assert_allclose(y.mean(), 1, atol=0.03)


def test_networks_without_drop_path_refuse_the_option():
    with pytest.raises(errors.InputError, match=r"^student.drop_path is 0.1, but 'resnet8' does"):
        networks.create("resnet8", 10, drop_path=0.1, prefix="student.options.")
    custom = networks.adapt(nn.Dense(3), "mine")
    with pytest.raises(errors.InputError, match="'mine' is a custom network"):
        networks.check_drop_path(custom, 0.1, "mine")
