"""The weights of frozen networks on the devices: dtypes, shards, digests and results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import checkpoints, networks, parallel
from rrd_jax.evaluation import predictions
from rrd_jax.networks import vit
from rrd_jax.teacher import fold, placement
from tests import fresh

pytestmark = pytest.mark.long

_SHAPE = (16, 16, 3)
_VIT = vit.VisionTransformer(10, patch=4, width=64, depth=2, heads=4, dtype=jnp.bfloat16)


def _weights(network, devices, axes=(), *, fully=False, read=lambda leaf: leaf):
    mesh = parallel.make_mesh(jax.devices()[:devices], axes)
    variables = jax.tree.map(np.asarray, fresh.init(network, _SHAPE, 0))
    weights, _ = placement.place(network, jax.tree.map(read, variables), _SHAPE, mesh, fully=fully)
    return variables, weights


def _on_each_device(tree):
    """Returns the bytes of a tree's arrays on each device."""
    leaves = jax.tree.leaves(tree)
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)


def test_a_transformer_is_on_the_devices_once_in_bfloat16():
    reads = []

    def stored(leaf):
        def read():
            reads.append(leaf.shape)
            return leaf

        return networks.Stored(leaf.shape, leaf.dtype, read)

    variables, weights = _weights(_VIT, 1, read=stored)
    assert len(reads) == len(jax.tree.leaves(variables))
    assert weights.host is None
    assert weights.evaluated() is weights.folded
    assert weights.digest == checkpoints.digest(variables)
    assert _on_each_device(weights.folded) < 0.6 * sum(x.nbytes for x in jax.tree.leaves(variables))
    images = jnp.ones((2, *_SHAPE))
    expected, actual = (
        _VIT.apply(tree, images, train=False) for tree in (variables, weights.folded)
    )
    np.testing.assert_array_equal(actual.logits, expected.logits)


def test_a_network_with_batch_norms_is_evaluated_with_its_original_weights():
    network = networks.create("resnet8", 10)
    variables, weights = _weights(network, 1)
    np.testing.assert_array_equal(
        weights.evaluated()["params"]["conv1"]["kernel"], variables["params"]["conv1"]["kernel"]
    )
    folded = jax.jit(lambda tree: fold.fold(network, tree, _SHAPE))(variables)
    jax.tree.map(np.testing.assert_array_equal, weights.folded, folded)
    assert weights.parameters == networks.count_parameters(variables["params"])


@pytest.mark.parametrize(
    ("axes", "fully", "share"), [((), True, 8), ((("data", 2), ("model", 4)), False, 4)]
)
@pytest.mark.parametrize("network", [_VIT, networks.create("resnet8", 10)])
def test_sharded_weights_give_the_results_of_replicated_weights(network, axes, fully, share):
    _, replicated = _weights(network, 1)
    _, sharded = _weights(network, 8, axes, fully=fully)
    for tree, expected in (
        (sharded.folded, replicated.folded),
        (sharded.evaluated(), replicated.evaluated()),
    ):
        assert _on_each_device(tree) < 1.5 * _on_each_device(expected) / share
    assert sharded.digest == replicated.digest
    batch = np.random.default_rng(0).integers(0, 256, (16, *_SHAPE), np.uint8)
    embeddings = []
    for weights in (replicated, sharded):
        embed = predictions.compile_embed(
            network, lambda x: x / 128.0 - 1, weights.mesh, fully=weights.fully
        )
        placed = parallel.put_batch(weights.mesh, {"image": batch, "label": np.zeros(16, np.int32)})
        for tree in (weights.folded, weights.evaluated()):
            embeddings.append(embed(tree, placed["image"], placed["label"])[0])
    tolerance = 1e-2 if network is _VIT else 1e-4
    for other in embeddings[1:]:
        np.testing.assert_allclose(other, embeddings[0], rtol=tolerance, atol=tolerance)
