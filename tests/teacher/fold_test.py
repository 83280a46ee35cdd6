"""Folding of batch norms and branches of a frozen network into its convolutions."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import networks
from rrd_jax.networks.repvgg import RepVGG
from rrd_jax.teacher import ensemble, fold
from tests import fresh, golden
from tests.networks import modern
from tests.networks.remat_test import SMALL

_SHAPE = (32, 32, 3)
# Other networks are these with more or wider blocks.
_NAMES = [*modern.KINDS, "shufflenetv2_x1_0"]
_QUICK = ("resnet8", "wrn_16_1", "vgg8")


def _randomize_norms(variables, seed=0):
    """Returns variables whose batch norms are not the identity, as after training."""
    rng = np.random.default_rng(seed)

    def randomize(path, leaf):
        if leaf.ndim != 1:
            return leaf
        if path[-1].key in ("scale", "var"):
            return leaf * rng.uniform(0.5, 2.0, leaf.shape).astype(np.float32)
        return leaf + 0.2 * rng.standard_normal(leaf.shape, np.float32)

    return jax.tree_util.tree_map_with_path(randomize, variables)


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(networks, variables, images):
    """Evaluates each network with its variables in one compiled program."""
    pairs = zip(networks, variables, strict=True)
    return [network.apply(weights, images, train=False) for network, weights in pairs]


def _images(count=2):
    return np.random.default_rng(1).standard_normal((count, *_SHAPE)).astype(np.float32)


def _check_equal(network, variables, folded):
    expected, outputs = _evaluate((network, network), (variables, folded), _images())
    for leaf, other in zip(jax.tree.leaves(outputs), jax.tree.leaves(expected), strict=True):
        assert golden.relative(leaf, other) < 2e-5


def _norms(tree):
    return {path[:-1] for path in flax.traverse_util.flatten_dict(tree["batch_stats"])}


@pytest.mark.parametrize("name", fresh.mark_long_except(_NAMES, _QUICK))
def test_a_folded_network_returns_the_outputs_of_the_network(name):
    network = networks.create(name, 7)
    variables = _randomize_norms(fresh.init(network, _SHAPE))
    folded = fold.fold(network, variables, _SHAPE)
    _check_equal(network, variables, folded)
    # WideResNets normalize sums: only the second batch norm of a block follows a convolution.
    unfolded = {path for path in _norms(variables) if name.startswith("wrn") and path[-1] == "bn1"}
    assert _norms(folded) == unfolded


@pytest.mark.parametrize("name", ["wrn_16_2", "vgg8"])
@pytest.mark.long
def test_a_folded_network_in_bfloat16_is_as_exact_as_the_network(name):
    full, half = (networks.create(name, 7, dtype=d) for d in (jnp.float32, jnp.bfloat16))
    init = jax.jit(functools.partial(networks.init, full, image_shape=_SHAPE))
    variables = _randomize_norms(jax.device_get(init(jax.random.key(0))))
    folded = fold.fold(half, variables, _SHAPE)
    kernels = [leaf for leaf in jax.tree.leaves(folded["params"]) if leaf.ndim == 4]
    assert {kernel.dtype for kernel in kernels} == {jnp.dtype(jnp.bfloat16)}
    expected, *outputs = _evaluate((full, half, half), (variables, folded, variables), _images(16))
    errors = [golden.relative(output.embedding, expected.embedding) for output in outputs]
    assert errors[0] < 1.3 * errors[1]
    np.testing.assert_array_equal(outputs[0].head["kernel"], expected.head["kernel"])


def test_a_block_of_several_branches_becomes_one_convolution():
    network = RepVGG(7, stem=8, widths=(8, 16), blocks=(2, 2))
    variables = _randomize_norms(fresh.init(network, _SHAPE))
    folded = fold.fold(network, variables, _SHAPE)
    _check_equal(network, variables, folded)
    assert not _norms(folded)
    assert folded["params"]["stages_0_1"].keys() == {"conv_kxk"}
    program = jax.make_jaxpr(network.apply)(folded, _images())
    assert str(program).count("conv_general_dilated[") == 1 + 2 + 2


@pytest.mark.parametrize("name", ["vit", "convnext"])
def test_linear_layers_of_a_frozen_transformer_are_stored_in_the_compute_type(name):
    network = SMALL[name](dtype=jnp.bfloat16)
    variables = _randomize_norms(fresh.init(network, _SHAPE))
    folded = fold.fold(network, variables, _SHAPE)
    flat = flax.traverse_util.flatten_dict(folded["params"])
    kernels = {path[:-1]: leaf.dtype for path, leaf in flat.items() if path[-1] == "kernel"}
    head = [dtype for path, dtype in kernels.items() if path[0] == "head"]
    assert head == [jnp.float32]
    assert list(kernels.values()).count(jnp.bfloat16) == len(kernels) - 1
    expected, outputs = _evaluate((network, network), (variables, folded), _images())
    np.testing.assert_array_equal(outputs.logits, expected.logits)


def test_the_members_of_an_ensemble_are_averaged_and_folded():
    members = (networks.create("resnet8", 4), networks.create("wrn_16_1", 4))
    combined = ensemble.Ensemble(members, (0.5, 0.5))
    variables = ensemble.stack_variables(
        [_randomize_norms(fresh.init(member, _SHAPE), seed) for seed, member in enumerate(members)]
    )
    folded = fold.fold(combined, variables, _SHAPE)
    assert folded["batch_stats"][0] == {}
    expected, outputs = _evaluate((combined, combined), (variables, folded), _images())
    np.testing.assert_allclose(outputs.logits, expected.logits, rtol=1e-4, atol=1e-5)
    parts = tuple(member for _, member in ensemble.members(combined, variables))
    together, first, second = _evaluate((combined, *members), (variables, *parts), _images())
    np.testing.assert_allclose(together.logits, (first.logits + second.logits) / 2, rtol=1e-6)
    np.testing.assert_array_equal(together.members[1].embedding, second.embedding)
    sizes = [networks.summarize(network, _SHAPE).parameters for network in (combined, *members)]
    assert sizes[0] == sum(sizes[1:])


def test_a_folded_resnet_computes_no_square_roots():
    network = networks.create("resnet8", 4)
    variables = _randomize_norms(fresh.init(network, _SHAPE))
    before = jax.tree.map(np.copy, variables)
    evaluate = jax.jit(functools.partial(network.apply, train=False))
    assert "rsqrt" in evaluate.lower(variables, _images()).as_text()
    folded = fold.fold(network, variables, _SHAPE)
    assert "rsqrt" not in evaluate.lower(folded, _images()).as_text()
    jax.tree.map(np.testing.assert_array_equal, variables, before)
    with pytest.raises(flax.errors.ScopeParamNotFoundError, match="scale"):
        network.apply(folded, _images(), train=True, mutable=["batch_stats"])


def test_folding_does_not_change_its_argument_and_folded_variables_cannot_be_trained():
    network = networks.create("vgg8", 4)
    variables = _randomize_norms(fresh.init(network, _SHAPE))
    before = jax.tree.map(np.copy, variables)
    folded = fold.fold(network, variables, _SHAPE)
    jax.tree.map(np.testing.assert_array_equal, variables, before)
    with pytest.raises(flax.errors.ScopeParamNotFoundError, match="scale"):
        network.apply(folded, _images(), train=True, mutable=["batch_stats"])
