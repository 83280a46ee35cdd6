import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, networks
from tests import golden


def _step(network, variables, images):
    """(loss, (maps, batch statistics)), and gradients."""

    def loss(params):
        own = variables | {"params": params}
        outputs, updated = network.apply(own, images, train=True, mutable=["batch_stats"])
        return jnp.sum(outputs.logits**2), (outputs.maps, updated)

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])


@pytest.mark.parametrize("how", ["convolutions", "all"])
@pytest.mark.parametrize(
    ("name", "blocks"),
    [("resnet8", 3), ("wrn_16_1", 6), ("mobilenetv2_cifar", 17), ("shufflenetv2_cifar", 16)],
)
def test_parts_that_are_computed_twice_give_the_same(name, blocks, how):
    network = networks.create(name, 4)
    variables = networks.init(network, (16, 16, 3))
    images = np.random.default_rng(0).standard_normal((4, 16, 16, 3)).astype(np.float32)
    twice = networks.remat(network, how)
    program = str(jax.make_jaxpr(lambda v, x: _step(twice, v, x))(variables, images))
    assert program.count("prevent_cse") == (blocks if how == "all" else 1)
    quick = {"xla_backend_optimization_level": 0}
    run = jax.jit(_step, static_argnums=0, compiler_options=quick)
    wanted, found = (run(n, variables, images) for n in (network, twice))
    (found, found_gradient), (wanted, wanted_gradient) = found, wanted
    for own, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert golden.relative(own, other) < 1e-5
    # Of a bias that a batch norm cancels, the gradient is rounding alone.
    pairs = zip(jax.tree.leaves(found_gradient), jax.tree.leaves(wanted_gradient), strict=True)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted_gradient))
    assert max(np.abs(own - other).max() for own, other in pairs) < 1e-5 * largest


def test_less_is_kept_for_the_backward_pass():
    network = networks.create("resnet8", 4)
    variables = networks.init(network, (16, 16, 3))
    images = jnp.ones((4, 16, 16, 3))

    def kept(how):
        run = networks.remat(network, how).apply
        _, pull = jax.vjp(
            lambda v: run(v, images, train=True, mutable=["batch_stats"])[0].logits, variables
        )
        return sum(leaf.size for leaf in jax.tree.leaves(pull))

    assert max(kept("all"), kept("convolutions")) < 0.6 * kept("none")


def test_what_cannot_be_computed_twice_is_refused():
    with pytest.raises(errors.InputError, match="VGG has no blocks"):
        networks.remat(networks.create("vgg8", 4), "all")
    with pytest.raises(errors.InputError, match="unknown train.remat 'some'; known: none, conv"):
        networks.remat(networks.create("resnet8", 4), "some")
