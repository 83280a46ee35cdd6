"""Networks compared with reference numbers of timm."""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest

from rrd_jax import networks
from rrd_jax.weights import from_torch, to_torch
from tests import fresh, golden
from tests.networks import modern

_TIMM = json.loads((pathlib.Path(golden.__file__).parent / "golden" / "timm.json").read_text())


@functools.partial(jax.jit, static_argnums=0)
def _apply(network, variables, images):
    return network.apply(variables, images)


def _weights(name):
    """Returns a state dict drawn from the entry names, as for the reference numbers."""
    shape = modern.images(name).shape[1:]
    variables = networks.summarize(networks.create(name, 10), shape).variables
    entries = to_torch(name, jax.tree.map(_zeros, variables))
    texts = ["x".join(map(str, entry.shape)) for entry in entries.values()]
    return golden.named_weights(list(entries), texts)


def _zeros(leaf):
    return np.broadcast_to(np.float32(0), leaf.shape)


@pytest.mark.parametrize("name", fresh.mark_long_except(modern.names(), modern.SMALLEST))
def test_sizes_equal_timm(name):
    summary = networks.summarize(networks.create(name, 10), modern.images(name).shape[1:])
    assert summary.parameters == _TIMM[name]["parameters"]
    assert summary.macs == _TIMM[name]["macs"]
    assert len(summary.outputs.maps) == len(summary.outputs.preactivations) >= 4


@pytest.mark.parametrize(
    "name", fresh.mark_long_except([*modern.SMALLEST, *modern.OTHERS], modern.SMALLEST)
)
@pytest.mark.long
def test_outputs_equal_timm(name):
    network, images = networks.create(name, 10), modern.images(name)
    weights = _weights(name)
    variables = from_torch(name, weights)
    outputs = _apply(network, variables, images)
    assert golden.relative(outputs.logits, _TIMM[name]["logits"]) < 1e-5
    if "patches" in _TIMM[name]:
        size = np.abs(outputs.patches).max()
        expected = _TIMM[name]["patches"]
        np.testing.assert_allclose(outputs.patches[0, :2, :2, :4], expected, atol=1e-5 * size)
    converted = to_torch(name, variables)
    assert converted.keys() == weights.keys()
    for entry, values in weights.items():
        np.testing.assert_array_equal(converted[entry], values)
