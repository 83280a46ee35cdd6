"""Layer decay: the order of layers by parameter path and by first use."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, networks, optim
from rrd_jax.optim import layer_rates
from rrd_jax.training.choices import OptimizerChoice


def _network(*order):
    """Returns a network that uses the parameters at these paths in this order."""

    def apply(params, images):
        # Casting all parameters at the start must not count as their first use.
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
        for path in order:
            leaf = functools.reduce(lambda tree, key: tree[key], path, params)
            images = jax.nn.relu(images @ leaf.T) if leaf.ndim == 2 else images + leaf[None]
        return images

    return apply


def _scales(params, apply, decay=0.5):
    scales = optim.block_scales(decay, apply, params, jnp.zeros((2, 4)), "mine")
    # The exponents of the decay count the layers from the head, which is layer 0.
    return jax.tree.map(lambda s: round(np.log(s) / np.log(decay)), scales)


_W, _B = jnp.zeros((4, 4)), jnp.zeros(4)


@pytest.mark.parametrize(
    "name",
    [
        lambda i: f"Block_{i}",
        lambda i: f"layer{1 + i // 2}_{i % 2}",
        # The alphabetical order of these names is not the order of use.
        lambda i: f"{'xyz'[2 - i]}Bottleneck_0",
    ],
)
def test_blocks_are_numbered_as_the_network_uses_them(name):
    params = {name(i): {"fc_0": {"kernel": _W}, "norm": {"scale": _B}} for i in range(3)}
    params |= {"stem": {"kernel": _W}, "pos": _B, "norm": {"scale": _B}, "head": {"kernel": _W}}
    params |= {"unused": {"kernel": _W}}
    order = [("stem", "kernel"), ("pos",)]
    for i in range(3):
        order += [(name(i), "norm", "scale"), (name(i), "fc_0", "kernel")]
    order += [("norm", "scale"), ("head", "kernel")]
    layers = _scales(params, jax.jit(_network(*order)))
    for i in range(3):
        assert layers[name(i)] == {"fc_0": {"kernel": 3 - i}, "norm": {"scale": 3 - i}}
    assert layers["stem"] == {"kernel": 4}
    assert layers["pos"] == 4
    # As in timm, the last norm has the rate of the last block.
    assert layers["norm"] == {"scale": 1}
    assert layers["head"] == layers["unused"] == {"kernel": 0}


def test_blocks_in_lists_and_stages_are_numbered():
    block = {"fc": {"weight": _W}}
    stages = [{"down": {"weight": _W}, "blocks": [block, block]}, {"blocks": [block]}]
    params = {"model": {"stages": stages, "out": {"weight": _W}}}
    order = [("model", "stages", 0, "down", "weight")]
    order += [
        ("model", "stages", i, "blocks", j, "fc", "weight") for i, j in ((0, 0), (0, 1), (1, 0))
    ]
    order += [("model", "out", "weight")]
    layers = _scales(params, _network(*order))["model"]
    first, second = layers["stages"]
    assert [b["fc"]["weight"] for b in first["blocks"] + second["blocks"]] == [3, 2, 1]
    # The downsampling precedes the first block.
    assert first["down"]["weight"] == 4
    assert layers["out"]["weight"] == 0


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        # The names of Google's vision transformer.
        (
            [
                "Transformer/encoderblock_0/LayerNorm_0/scale",
                "Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel",
            ],
            {"Transformer/encoderblock_0"},
        ),
        # Groups of blocks, as in wide residual networks and in PyTorch.
        (
            ["block1/layer_0/conv1/kernel", "block1/layer_1/down_0/conv/kernel"],
            {"block1/layer_0", "block1/layer_1"},
        ),
        (["layer1/0/conv1/weight", "layer2/0/bn1/bias"], {"layer1/0", "layer2/0"}),
        (["stages/0/down/norm/scale", "stages/0/blocks/1/mlp/fc1/kernel"], {"stages/0/blocks/1"}),
        (["encoder1/blocks_2/attn/qkv/kernel", "Conv_0/kernel"], {"encoder1/blocks_2"}),
        (["Residual_4/Dense_0/kernel", "Dense_1/kernel"], {"Residual_4"}),
        (["Conv_0/kernel", "Dense_0/kernel", "LayerNorm_1/scale"], set()),
    ],
)
def test_the_block_of_a_path_is_found(paths, expected):
    blocks = layer_rates.find_blocks([tuple(path.split("/")) for path in paths])
    assert {"/".join(block) for block in blocks if block} == expected


@pytest.mark.parametrize(("model", "blocks"), [("resnet8", 3), ("wrn_16_1", 6), ("mobilenetv2", 0)])
def test_our_networks_have_blocks(model, blocks):
    network = networks.create(model, 10)
    choice = OptimizerChoice(0.1, layer_decay=0.5)
    scales = choice.block_scales(model, network, (32, 32, 3))
    actual = sorted(set(jax.tree.leaves(scales)))
    if blocks:
        assert actual == [0.5**i for i in reversed(range(blocks + 2))]
    assert actual[-1] == 1


def test_only_the_updates_of_the_student_are_scaled():
    params = {"student": {"a": jnp.ones(2), "b": jnp.ones(2)}, "objectives": {"kd": jnp.ones(2)}}
    optimizer = optim.scaled(optim.sgd(lambda step: 1.0), {"a": 0.25, "b": 1.0}, "student")
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    expected = {"student": {"a": -0.25, "b": -1.0}, "objectives": {"kd": -1.0}}
    assert jax.tree.map(lambda leaf: float(leaf[0]), updates) == expected


@pytest.mark.parametrize("decay", [0.5, 0.0, 1.5])
def test_invalid_decays_and_networks_without_blocks_are_refused(decay):
    params = {"conv1": {"kernel": _W}, "conv2": {"kernel": _W}, "head": {"kernel": _W}}
    with pytest.raises(errors.InputError, match=f"optimizer.layer_decay is {decay}"):
        _scales(params, _network(), decay)
