"""Named parts of networks, and freezing them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, networks
from rrd_jax.networks import parts
from tests import tiny

_SHAPE = (32, 32, 3)


def _head(network):
    head = "/".join(networks.summarize(network, _SHAPE).classifier)
    return frozenset({f"{head}/kernel", f"{head}/bias"})


def _modules(names):
    return {name.split("/")[0] for name in names}


@pytest.mark.parametrize(
    ("model", "stem", "stages", "last"),
    [
        ("resnet8", {"conv1", "bn1"}, 3, {"layer3_0"}),
        ("resnet18", {"conv1", "bn1"}, 4, {"layer4_0", "layer4_1"}),
        ("wrn_16_1", {"conv1"}, 3, {"block3"}),
        ("vgg8", {"block0_0", "block0_1"}, 4, {"block4_0", "block4_1"}),
        ("mobilenetv2", {"features_0_0", "features_0_1"}, 4, None),
        ("shufflenetv2_x1_0", {"conv1_0", "conv1_1"}, 3, None),
    ],
)
def test_each_stage_ends_with_a_map(model, stem, stages, last):
    network = networks.create(model, 10)
    named_parts = parts.parts(network, _SHAPE, _head(network))
    assert list(named_parts) == ["stem", *(f"stage{i + 1}" for i in range(stages)), "backbone"]
    assert _modules(named_parts["stem"]) == stem
    assert last in (None, _modules(named_parts[f"stage{stages}"]))
    assert not named_parts["backbone"] & _head(network)
    assert sum(map(len, named_parts.values())) <= 2 * len(named_parts["backbone"])


def test_patterns_select_parts_modules_and_parameters():
    network = networks.create("resnet8", 10)

    def modules(pattern):
        return _modules(networks.frozen_parts(network, _SHAPE, pattern, _head(network)))

    assert modules("stem|stage1") == {"conv1", "bn1", "layer1_0"}
    assert modules("layer(1|2)_0/conv1") == {"layer1_0", "layer2_0"}
    assert modules("layer1_0/bn1/scale") == {"layer1_0"}
    for pattern, message in [
        ("stem|stage9", "has no 'stage9'; did you mean .* known parts: stem, stage1, .* modules: "),
        ("layer1", "no 'layer1'; did you mean 'layer1_0'"),
        ("stem|", "has no ''"),
        ("(", "not a valid regular expression"),
        (".*", "matches the whole network"),
    ]:
        with pytest.raises(errors.InputError, match=message):
            modules(pattern)


class _BatchNorms(nn.Module):
    """A network that sets `use_running_average` as a field and as an argument."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, name="first")(nn.Dense(4, name="in")(x))
        x = nn.BatchNorm(name="second")(x, use_running_average=not train)
        return nn.Dense(3, name="out")(nn.Dropout(0.5, deterministic=not train)(x).mean((1, 2)))


@pytest.mark.parametrize("how", ["plain", "none", "convolutions", "all"])
def test_frozen_parts_run_in_evaluation_mode_without_gradients(how):
    shape = (8, 8, 3)
    if how == "plain":
        network, frozen = networks.from_linen(_BatchNorms()), {"in", "first", "second"}
    else:
        network, frozen = tiny.NETWORK(num_classes=3), {"conv1", "bn1"}
    variables = networks.init(network, jax.random.key(0), shape)
    paths = networks.named_shapes(variables["params"])
    names = frozenset(name for name in paths if name.split("/")[0] in frozen)
    frozen_network = networks.freeze(
        network if how == "plain" else networks.remat(network, how), names
    )
    images = jax.random.normal(jax.random.key(1), (4, *shape))

    def loss(params):
        options = {"train": True, "mutable": ["batch_stats"], "rngs": jax.random.key(2)}
        outputs, updated = frozen_network.apply({**variables, "params": params}, images, **options)
        return jnp.sum(outputs.logits**2), (outputs, updated["batch_stats"])

    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, (outputs, stats)), gradients = gradient(variables["params"])
    for module, tree in gradients.items():
        is_zero = [not np.asarray(leaf).any() for leaf in jax.tree.leaves(tree)]
        assert all(is_zero) if module in frozen else not all(is_zero)
    assert jax.tree.structure(stats) == jax.tree.structure(variables["batch_stats"])
    for module, tree in stats.items():
        pairs = zip(*map(jax.tree.leaves, (tree, variables["batch_stats"][module])), strict=True)
        assert all(np.array_equal(*pair) for pair in pairs) == (module in frozen)
    if how != "plain":
        evaluated = network.apply(variables, images).maps[0]
        np.testing.assert_allclose(outputs.maps[0], evaluated, atol=1e-5)


def test_parts_with_state_other_than_batch_norm_cannot_be_frozen():
    class Counting(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = nn.Dense(4, name="in")(x)
            if (count := self.variable("batch_stats", "count", jnp.zeros, ())) and train:
                count.value += 1
            return x

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return nn.Dense(3, name="out")(Counting(name="c")(x, train=train).mean((1, 2)))

    with pytest.raises(errors.InputError, match="matches parts that carry c/count"):
        networks.frozen_parts(networks.from_linen(Network()), (8, 8, 1), "c", frozenset())
