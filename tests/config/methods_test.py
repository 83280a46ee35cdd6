"""Every method trains: three steps of the compiled program, on tiny images.

The networks' first weights are made once and handed to every run, since compiling what draws them
would take as long as all the rest.
"""

import chex
import jax
import numpy as np
import pytest

from configs import cifar100
from rrd_jax import errors, networks, objectives, parallel, program, recipes
from rrd_jax.config import methods

_IMAGE, _CLASSES, _BATCH = (8, 8, 3), 4, 8
_PAIRS = {"one family": ("resnet8", "resnet8"), "two families": ("resnet8", "vgg8")}
# Networks of one family train by each method alone, those of two by all objectives in company,
# which takes less time to compile.
_TOGETHER = (
    *("kd+wsld+dkd+dist+r2kd+cmkd", "sp+rkd+pkt+cc+ckd+itrd+ega", "dcd+crd+rrd"),
    *("fitnet+at+nst+vid+ssim", "semckd", "reviewkd", "srrl", "simkd", "ab+ft"),
    *("crd bank", "rrd momentum", "rrd momentum_reference"),
)
_TRAINED = [("one family", method) for method in methods.METHODS]
_TRAINED += [("two families", method) for method in _TOGETHER]
# What two families cannot have where their channels differ.
_CHANNELS = "compares channel with channel: the student's taps are .*x128 .*, the teacher's .*x16 "
_REFUSED = {("two families", "kdsvd"): _CHANNELS, ("two families", "fsp"): _CHANNELS}


def test_two_families_train_by_every_objective_or_are_refused():
    tried = [method for pair, method in (*_TRAINED, *_REFUSED) if pair == "two families"]
    parts = {part for method in tried for part in method.split()[0].split("+")}
    assert parts | {"ce"} == set(objectives.OBJECTIVES)


@pytest.fixture(scope="module")
def weights():
    """Of each network, by its name."""
    return {
        name: networks.init(networks.create(name, _CLASSES), _IMAGE)
        for name in {name for pair in _PAIRS.values() for name in pair}
    }


@pytest.fixture(autouse=True)
def _shared_weights(weights, monkeypatch):
    by_network = {networks.create(name, _CLASSES): own for name, own in weights.items()}
    monkeypatch.setattr(networks, "init", lambda network, key, image_shape: by_network[network])


def _recipe(pair, method):
    """By the config of that method, as the trainer makes it."""
    name, _, memory = method.partition(" ")
    config = cifar100.get_config(f"smoke,{'-'.join(_PAIRS[pair])},{name}")
    if memory:
        config.objectives[name].memory = memory
    for objective, options in config.objectives.items():
        if objectives.takes(objective, "batch_size"):
            options.batch_size = _BATCH
    config.optimizer.learning_rate = 0.001
    config.data.augment = "none"  # which takes long to compile
    return recipes.from_config(config, "", _CLASSES, 3 * _BATCH)


def _build(recipe, pair):
    """The program and the teacher's network."""
    needed = any(objective.needs_teacher for objective in recipe.objectives.values())
    teacher = networks.create(_PAIRS[pair][0], _CLASSES) if needed else None
    mesh = parallel.make_mesh(jax.devices()[:1])
    return program.build(recipe, mesh, _IMAGE, 3, resident=False, teacher=teacher)


def _batches():
    rng = np.random.default_rng(0)
    for step in range(3):
        yield {
            "image": rng.integers(0, 256, (_BATCH, *_IMAGE), np.uint8),
            "label": rng.integers(0, _CLASSES, _BATCH, np.int32),
            "index": np.arange(_BATCH, dtype=np.int32) + step * _BATCH,
        }


@pytest.mark.parametrize(("pair", "method"), _TRAINED)
def test_every_method_trains(pair, method, weights):
    recipe = _recipe(pair, method)
    teacher = jax.tree.map(lambda x: x + 0.01, weights[_PAIRS[pair][0]])  # not the student's
    built = _build(recipe, pair)
    state = built.create(0, teacher)
    first = jax.device_get(state)
    for batch in _batches():
        state, logged = built.train_step(state, teacher, batch)
        assert set(logged) == {"loss", "top1", *(f"loss/{name}" for name in recipe.objectives)}
        terms = [
            w * logged[f"loss/{name}"] / max(recipe.warmup[name], 1)  # in the first epoch
            for name, w in recipe.weights.items()
        ]
        np.testing.assert_allclose(logged["loss"], sum(terms), rtol=1e-5)
        assert np.isfinite(logged["loss"])
    last = jax.device_get(state)
    chex.assert_tree_all_finite((last.params, last.batch_stats, last.memory))
    chex.assert_trees_all_equal(last.frozen, first.frozen)
    chex.assert_trees_all_equal_shapes_and_dtypes(last.memory, first.memory)
    for before, after in zip(*map(jax.tree.leaves, (first.params, last.params)), strict=True):
        # By the objectives, or at least by weight decay; simkd leaves the student's classifier.
        assert np.any(before != after) or (method == "simkd" and not np.any(before))


@pytest.mark.parametrize(("pair", "method"), _REFUSED)
def test_what_networks_cannot_have_is_refused_in_one_line(pair, method):
    with pytest.raises(errors.InputError, match=_REFUSED[pair, method]) as caught:
        _build(_recipe(pair, method), pair)
    assert "\n" not in str(caught.value)
