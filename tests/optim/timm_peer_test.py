"""Layer decay and weight decay compared with timm's groups of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import networks, optim
from rrd_jax.training.choices import OptimizerChoice
from rrd_jax.weights import published, to_torch
from tests.networks import modern

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
_param_groups = pytest.importorskip("timm.optim._param_groups")

_OTHERS = (
    *("resnet18", "mobilenetv1", "mobilenetv2"),
    *("mobileone_s0", "repvit_m0_9", "fastvit_t8", "efficientvit_b0", "efficientvit_l1"),
    *("tiny_vit_5m_224", "edgenext_xx_small"),
    *("beitv2_base_patch16_224", "eva02_tiny_patch14_224", "vit_base_patch16_radio_v3"),
    *("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"),
)
_NAMES = [
    name for name in (*modern.SMALLEST, *modern.OTHERS, *_OTHERS) if published.lookup(name).timm
]


def _timm_groups(name, side):
    """Returns (exponent of the layer decay, whether weight decay applies) of each entry."""
    record = published.lookup(name)
    with torch.device("meta"):
        network = timm.create_model(
            record.timm, num_classes=10, **record.make_args((side, side, 3))
        )
    excluded = network.no_weight_decay() if hasattr(network, "no_weight_decay") else ()
    names = {id(parameter): entry for entry, parameter in network.named_parameters()}
    groups = _param_groups.param_groups_layer_decay(network, 0.05, excluded, layer_decay=0.5)
    return {
        names[id(parameter)]: (-np.log2(group["lr_scale"]), group["weight_decay"] > 0)
        for group in groups
        for parameter in group["params"]
    }


def _entries(name, network, side, tree):
    """Returns the value of each entry of timm, for a tree with a number per parameter."""
    shapes = networks.summarize(network, (side, side, 3)).variables
    filled = {
        "params": jax.tree.map(
            lambda leaf, value: np.broadcast_to(np.float32(value), leaf.shape),
            shapes["params"],
            tree,
        ),
        "batch_stats": jax.tree.map(
            lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes["batch_stats"]
        ),
    }
    state_dict = to_torch(name, filled, layout="timm")
    assert all(np.ptp(value) == 0 for value in state_dict.values())
    return {entry: np.ravel(value)[0] for entry, value in state_dict.items()}


@pytest.mark.long
@pytest.mark.parametrize("name", _NAMES)
def test_groups_of_parameters_equal_timm(name):
    side = networks.image_size(name)
    network = networks.create(name, 10)
    params = networks.summarize(network, (side, side, 3)).variables["params"]
    choice = OptimizerChoice(0.1, layer_decay=0.5)
    exponents = jax.tree.map(
        lambda scale: -np.log2(scale), choice.block_scales(name, network, (side, side, 3))
    )
    # Whether weight decay applies does not depend on the sizes of a parameter's axes.
    params_of_one = jax.tree.map(lambda leaf: jnp.ones((1,) * leaf.ndim), params)
    optimizer = optim.create("adamw", lambda step: 1.0, weight_decay=0.1, decay_norm_and_bias=False)
    zeros = jax.tree.map(jnp.zeros_like, params_of_one)
    updates, _ = optimizer.update(zeros, optimizer.init(params_of_one), params_of_one)
    decays = jax.tree.map(lambda update: float(update.sum() != 0), updates)
    mask = _entries(name, network, side, decays)
    layers = _entries(name, network, side, exponents)
    expected = _timm_groups(name, side)
    actual = {entry: (layers[entry], mask[entry] > 0) for entry in expected}
    assert actual == expected
