import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import networks
from rrd_jax.teacher import ensemble, fold
from tests import golden

_SHAPE = (32, 32, 3)
# As resnet32, with more blocks.
_LONG = {"resnet44", "resnet56", "resnet110"}


def _used(network, seed=0):
    """Variables as of a trained network: no batch norm does nothing."""
    rng = np.random.default_rng(seed)

    def use(path, leaf):
        if leaf.ndim != 1:
            return leaf
        if path[-1].key in ("scale", "var"):
            return leaf * rng.uniform(0.5, 2.0, leaf.shape).astype(np.float32)
        return leaf + 0.2 * rng.standard_normal(leaf.shape, np.float32)

    return jax.tree_util.tree_map_with_path(use, networks.init(network, _SHAPE))


@functools.cache
def _evaluate(network):
    quick = {"xla_backend_optimization_level": 0}
    return jax.jit(functools.partial(network.apply, train=False), compiler_options=quick)


def _images(count=2):
    return np.random.default_rng(1).standard_normal((count, *_SHAPE)).astype(np.float32)


def _norms(tree):
    return {path[:-1] for path in flax.traverse_util.flatten_dict(tree["batch_stats"])}


@pytest.mark.parametrize("name", sorted(networks.MODELS.keys() - _LONG))
def test_a_folded_network_returns_what_the_network_does(name):
    network = networks.create(name, 7)
    variables = _used(network)
    folded = fold.fold(network, variables, _SHAPE)
    wanted, found = (_evaluate(network)(v, _images()) for v in (variables, folded))
    for own, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert golden.relative(own, other) < 2e-5
    # WideResNets normalise sums: only the second batch norm of a block follows a convolution.
    left = {path for path in _norms(variables) if name.startswith("wrn") and path[-1] == "bn1"}
    assert _norms(folded) == left


def test_a_folded_network_in_bfloat16_is_as_exact_as_the_network_is():
    for name in ("resnet32x4", "wrn_16_2", "vgg8", "mobilenetv2_cifar"):
        full, half = (networks.create(name, 7, dtype=d) for d in (jnp.float32, jnp.bfloat16))
        variables = _used(full)
        folded = fold.fold(half, variables, _SHAPE)
        kernels = [leaf for leaf in jax.tree.leaves(folded["params"]) if leaf.ndim == 4]
        assert {kernel.dtype for kernel in kernels} == {jnp.dtype(jnp.bfloat16)}
        images = _images(16)
        wanted = _evaluate(full)(variables, images)
        errors = [
            golden.relative(_evaluate(half)(v, images).embedding, wanted.embedding)
            for v in (folded, variables)
        ]
        assert errors[0] < 1.3 * errors[1]
        head = _evaluate(half)(folded, images).head
        np.testing.assert_array_equal(head["kernel"], wanted.head["kernel"])


def test_the_members_of_an_ensemble_are_folded():
    members = (networks.create("resnet8", 4), networks.create("wrn_16_1", 4))
    both = ensemble.Ensemble(members, (0.5, 0.5))
    variables = ensemble.gather([_used(member, seed) for seed, member in enumerate(members)])
    folded = fold.fold(both, variables, _SHAPE)
    assert folded["batch_stats"][0] == {}
    wanted, found = (both.apply(v, _images(), train=False) for v in (variables, folded))
    np.testing.assert_allclose(found.logits, wanted.logits, rtol=1e-4, atol=1e-5)


def test_folding_leaves_its_argument_alone_and_cannot_be_trained():
    network = networks.create("vgg8", 4)
    variables = _used(network)
    before = jax.tree.map(np.copy, variables)
    folded = fold.fold(network, variables, _SHAPE)
    jax.tree.map(np.testing.assert_array_equal, variables, before)
    with pytest.raises(flax.errors.ScopeParamNotFoundError, match="scale"):
        network.apply(folded, _images(), train=True, mutable=["batch_stats"])


def test_a_folded_resnet_takes_no_roots():
    network = networks.create("resnet8", 4)
    variables = networks.init(network, _SHAPE)
    evaluate = jax.jit(functools.partial(network.apply, train=False))
    assert "rsqrt" in evaluate.lower(variables, _images()).as_text()
    folded = fold.fold(network, variables, _SHAPE)
    assert "rsqrt" not in evaluate.lower(folded, _images()).as_text()
