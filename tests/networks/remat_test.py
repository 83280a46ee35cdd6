"""Rematerialization: identical results with fewer stored activations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, networks
from rrd_jax.cpu import convolutions
from rrd_jax.networks import convnext, vit
from tests import fresh, golden

# Small networks of families whose published networks are large.
SMALL = {
    "vit": functools.partial(
        vit.VisionTransformer, 4, patch=4, width=16, depth=3, heads=2, drop_path=0.5
    ),
    "convnext": functools.partial(
        convnext.ConvNeXt, 4, blocks=(1, 1), widths=(4, 4), drop_path=0.5
    ),
}
_BLOCKS = {"resnet8": 3, "wrn_16_1": 6, "mobilenetv2_cifar": 17, "shufflenetv2_cifar": 16}


def _create(name):
    return SMALL[name]() if name in SMALL else networks.create(name, 4)


def _step(network, variables, images):
    """Returns ((loss, (maps, batch statistics)), gradients)."""

    def loss(params):
        options = {"train": True, "mutable": ["batch_stats"], "rngs": jax.random.key(0)}
        outputs, updated = network.apply(variables | {"params": params}, images, **options)
        return jnp.sum(outputs.logits**2), (outputs.maps, updated)

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])


@pytest.mark.parametrize("name", _BLOCKS)
@pytest.mark.long
def test_the_whole_network_or_each_block_is_rematerialized(name):
    network = networks.create(name, 4)
    variables = fresh.init(network, (16, 16, 3))
    images = np.zeros((4, 16, 16, 3), np.float32)
    for how, count in (("convolutions", 1), ("all", _BLOCKS[name])):
        run = networks.remat(network, how).apply
        apply = functools.partial(run, train=True, mutable=["batch_stats"])
        program = jax.make_jaxpr(apply)(variables, images)
        assert sum("prevent_cse" in equation.params for equation in program.eqns) == count


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", *SMALL])
@pytest.mark.long
def test_rematerialized_networks_return_the_same_results(name):
    network, side = _create(name), 32 if name in SMALL else 16
    variables = fresh.init(network, (side, side, 3))
    images = np.random.default_rng(0).standard_normal((4, side, side, 3)).astype(np.float32)
    # Fast convolutions also compile faster.
    run = jax.jit(convolutions.fast(_step), static_argnums=0)
    expected, expected_gradient = run(network, variables, images)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected_gradient))
    for how in ("convolutions", "all"):
        actual, gradient = run(networks.remat(network, how), variables, images)
        for leaf, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            assert golden.relative(leaf, other) < 1e-5
        # The gradient of a bias before a batch norm is pure rounding error.
        pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True)
        assert max(np.abs(leaf - other).max() for leaf, other in pairs) < 1e-5 * largest


@pytest.mark.parametrize("name", ["resnet8", *SMALL])
def test_fewer_values_are_stored_for_the_backward_pass(name):
    network = _create(name)
    variables = fresh.init(network, (32, 32, 3))
    images = jnp.ones((64, 32, 32, 3))

    def count_residuals(how):
        run = networks.remat(network, how).apply

        def pull(variables):
            def logits(variables):
                options = {"mutable": ["batch_stats"], "rngs": jax.random.key(0)}
                return run(variables, images, train=True, **options)[0].logits

            return jax.vjp(logits, variables)[1]

        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(pull, variables)))

    assert max(count_residuals("all"), count_residuals("convolutions")) < 0.6 * count_residuals(
        "none"
    )


def test_invalid_remat_options_are_refused():
    with pytest.raises(errors.InputError, match="VGG has no blocks"):
        networks.remat(networks.create("vgg8", 4), "all")
    with pytest.raises(errors.InputError, match="unknown train.remat 'some'; known: none, conv"):
        networks.remat(networks.create("resnet8", 4), "some")
