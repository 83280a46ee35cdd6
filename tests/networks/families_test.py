"""Properties of single families, and the initialization of networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import networks
from rrd_jax.weights import to_torch
from tests import fresh, golden

_MEAN_POOLED = (
    *("resnet8", "wrn_16_1", "vgg8", "mobilenetv1", "mobilenetv2_cifar"),
    *("shufflenetv1_cifar", "shufflenetv2_cifar", "convmixer_256_8_cifar"),
)


@pytest.mark.parametrize(
    ("name", "size"), [("vgg8", 32), ("mobilenetv1", 64), ("shufflenetv1_cifar", 32)]
)
@pytest.mark.long
def test_initial_logits_have_a_sensible_scale_also_in_bfloat16(name, size):
    images = np.random.default_rng(0).standard_normal((4, size, size, 3)).astype(np.float32)
    network = networks.create(name, 10)
    init = jax.jit(functools.partial(networks.init, network, image_shape=(size, size, 3)))
    variables = init(jax.random.key(0))
    train = jax.jit(lambda v, x: network.apply(v, x, train=True, mutable=["batch_stats"])[0])
    assert 1e-4 < np.asarray(train(variables, images).logits).std() < 10
    full = jax.jit(network.apply)(variables, images).logits
    half = jax.jit(networks.create(name, 10, dtype=jnp.bfloat16).apply)(variables, images).logits
    assert golden.relative(half, full) < 0.02


def test_vgg_halves_images_of_64_pixels_one_more_time():
    for size, last in ((32, 4), (64, 4)):
        outputs = networks.summarize(networks.create("vgg8", 5), (size, size, 3)).outputs
        assert outputs.maps[-1].shape[1] == last


def test_mobilenetv1_has_the_published_size():
    summary = networks.summarize(networks.create("mobilenetv1", 1000), (224, 224, 3))
    # The paper states 4.2 M and 569 M.
    assert (summary.parameters, summary.macs) == (4_231_976, 568_740_352)
    taps = [tap.shape[1:] for tap in summary.outputs.maps]
    shapes = [(112, 32), (56, 128), (28, 256), (14, 512), (7, 1024)]
    assert taps == [(size, size, channels) for size, channels in shapes]


def test_mobilenetv1_equals_a_numpy_implementation():
    network = networks.create("mobilenetv1", 3)
    noise = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: (leaf + 0.1 * np.abs(noise.standard_normal(leaf.shape))).astype(np.float32),
        fresh.init(network, (32, 32, 3)),
    )
    images = noise.standard_normal((2, 32, 32, 3)).astype(np.float32)
    weights = {k: v.astype(np.float64) for k, v in to_torch("mobilenetv1", variables).items()}

    def block(x, conv, norm, stride, depthwise):
        kernel = weights[f"{conv}.weight"].transpose(2, 3, 1, 0)
        pad = kernel.shape[0] // 2
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        size = (x.shape[1] - kernel.shape[0]) // stride + 1
        y = 0
        for row in range(kernel.shape[0]):
            for column in range(kernel.shape[1]):
                rows = slice(row, row + stride * size, stride)
                columns = slice(column, column + stride * size, stride)
                part = x[:, rows, columns][:, :size, :size]
                weight = kernel[row, column]
                y = y + (part * weight[0] if depthwise else part @ weight)
        y = (y - weights[f"{norm}.running_mean"]) / np.sqrt(weights[f"{norm}.running_var"] + 1e-5)
        return np.maximum(y * weights[f"{norm}.weight"] + weights[f"{norm}.bias"], 0)

    x = block(images, "model.0.0", "model.0.1", 2, False)
    for i in range(1, 14):
        x = block(x, f"model.{i}.0", f"model.{i}.1", 2 if i in (2, 4, 6, 12) else 1, True)
        x = block(x, f"model.{i}.3", f"model.{i}.4", 1, False)
    expected = x.mean((1, 2)) @ weights["fc.weight"].T + weights["fc.bias"]
    assert golden.relative(jax.jit(network.apply)(variables, images).logits, expected) < 1e-5


@pytest.mark.parametrize("name", fresh.mark_long_except(_MEAN_POOLED, ["resnet8", "wrn_16_1"]))
def test_the_embedding_is_the_mean_of_the_patches(name):
    network, shape = networks.create(name, 3), (32, 48, 3)
    variables = fresh.init(network, shape)
    images = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    outputs = jax.jit(network.apply)(variables, images)
    assert outputs.patches.ndim == 4
    np.testing.assert_allclose(outputs.patches.mean((1, 2)), outputs.embedding, atol=1e-6)
