"""Comparison of networks with their peers in timm and transformers, with random weights."""

import jax
import numpy as np
import pytest

from rrd_jax import networks
from tests import golden

torch = pytest.importorskip("torch")


def randomize(network):
    """Returns a module of PyTorch for evaluation, with random weights and positive variances."""
    draw = torch.Generator().manual_seed(7)
    for name, value in network.state_dict().items():
        if not value.dtype.is_floating_point:
            continue
        noise = torch.randn(value.shape, generator=draw)
        if name.endswith("running_var"):
            value.copy_(0.5 + noise.abs())
        elif name.endswith("norm.weight") or value.ndim < 2:
            value.copy_(0.5 + 0.3 * noise)
        else:
            value.copy_(noise / max(1, value[0].numel()) ** 0.5)
    return network.eval()


def images(shape, count=2):
    """Returns normal noise [count, *shape, 3]."""
    return np.random.default_rng(shape[1]).standard_normal((count, *shape, 3), np.float32)


def to_torch(array):
    """Converts [B, H, W, channels] to PyTorch's order of axes."""
    return torch.from_numpy(array.transpose(0, 3, 1, 2).copy())


def timm_outputs(peer, first):
    """Returns a function of images to the outputs of a transformer of timm, for `compare`.

    Args:
      peer: the transformer.
      first: number of tokens before the patches.
    """

    def outputs(images):
        features, maps = peer.forward_features(images), peer.forward_intermediates(images)[1]
        return {
            "logits": peer(images),
            "embedding": peer.forward_head(features, pre_logits=True),
            "patches": features[:, first:],
            "maps": maps,
        }

    return outputs


def compare(name, variables, shape, peer, num_classes=0):
    """Compares outputs with those of a peer, to 1e-5 of the largest value.

    Args:
      name: name of the network.
      variables: its weights.
      shape: (H, W) of the images.
      peer: a function of PyTorch images that returns a dict with logits, embedding, patches
        [B, N, D] or [B, D, h, w], and maps [[B, D, h, w]], each of them optional.
      num_classes: number of classes.
    """
    array = images(shape)
    network = networks.create(name, num_classes)
    variables = networks.fit_positions(variables, network, (*shape, 3))
    outputs = jax.jit(network.apply)(variables, array)
    with torch.inference_mode():
        expected = peer(to_torch(array))
    pairs = {key: (getattr(outputs, key), value) for key, value in expected.items()}
    if "maps" in pairs:
        actual, maps = pairs.pop("maps")
        pairs |= {
            f"map {i}": pair for i, pair in enumerate(zip(actual[-len(maps) :], maps, strict=True))
        }
    for key, (actual, value) in pairs.items():
        value = value.movedim(1, -1) if value.ndim == 4 else value
        assert golden.relative(actual, value.reshape(actual.shape).numpy()) < 1e-5, key


def assert_equal_entries(actual, expected):
    """Asserts that two state dicts have equal entries; values of `expected` may be of PyTorch."""
    assert actual.keys() == expected.keys()
    for entry, value in expected.items():
        np.testing.assert_array_equal(actual[entry], np.asarray(value), entry)


def assert_equal_gradients(actual, peer):
    """Asserts that a state dict of gradients equals those of a module, to 1e-5 of the largest."""
    gradients = {n: p.grad.numpy() for n, p in peer.named_parameters()}
    largest = max(np.abs(leaf).max() for leaf in gradients.values())
    for entry, leaf in gradients.items():
        assert np.abs(actual[entry] - leaf).max() < 1e-5 * largest, entry
