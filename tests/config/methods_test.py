"""Methods: fields, weights and options, which follow from the records of objectives."""

import inspect
import typing

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from rrd_jax import errors, networks, objectives, parallel
from rrd_jax.config import methods, parse
from rrd_jax.jobs import program
from rrd_jax.objectives.batch import Batch, SecondView
from rrd_jax.training import recipe
from tests import launch
from tests.objectives import toy

_IMAGE, _CLASSES, _BATCH = (8, 8, 3), 4, 8


def _create(name, **options):
    """Creates an objective from the fields of a config and the options of the trainer."""
    # ConfigDict turns placeholders into None.
    fields = dict(ConfigDict(methods.objectives()[name]))
    del fields["weight"], fields["warmup"]
    small = {"dim": 6, "queue_size": 20, "negatives": 20}
    options |= {field: value for field, value in small.items() if field in fields}
    filled_in = {
        "examples": 3 * _BATCH,
        "batch_size": _BATCH,
        "total_steps": 6,
        "steps_per_epoch": 3,
    }
    filled_in = {field: filled_in[field] for field in objectives.RECORDS[name].filled_in}
    return objectives.create(name, **fields | filled_in | options)


@pytest.mark.parametrize("name", objectives.RECORDS)
def test_every_option_of_an_objective_is_a_field_of_the_type_that_the_factory_accepts(name):
    record, fields = objectives.RECORDS[name], methods.objectives()[name]
    parameters = inspect.signature(record.factory).parameters
    options = [option for option in parameters if option not in record.filled_in]
    assert list(fields) == ["warmup", "weight", *options]
    assert type(fields["weight"]) is float
    for field in list(fields)[2:]:
        default, annotation = parameters[field].default, parameters[field].annotation
        if default is None:
            assert fields[field].get_type() | None == annotation
        else:
            # The command line accepts each type that the factory accepts.
            assert isinstance(default, typing.get_args(annotation) or annotation)
            assert fields[field] == default


def test_two_methods_share_no_placeholders():
    first, second = methods.method("rrd"), methods.method("rrd")
    first.rrd.temperature_student = 0.5
    assert second.rrd.temperature_student is None


# Weights for CIFAR-100 from the papers and their common benchmark.
_PUBLISHED = {
    "ce": {"ce": 1},
    "kd": {"ce": 0.1, "kd": 0.9},
    "wsld": {"ce": 0, "wsld": 1},
    "dkd": {"ce": 1, "dkd": 1},
    "dist": {"ce": 1, "dist": 1},
    "rld": {"ce": 1, "rld": 1},
    "wttm": {"ce": 1, "wttm": 4},
    "ctkd": {"ce": 0.1, "ctkd": 0.9},
    "sdd": {"ce": 0.1, "sdd": 0.9},
    "ofa": {"ce": 1, "ofa": 1},
    "wkd": {"ce": 1, "wkd": 1},
    "mlkd": {"ce": 0.1, "mlkd": 1},
    "crld": {"ce": 1, "crld": 1},
    "rdd": {"ce": 0, "rdd": 1},
    "sp": {"ce": 1, "sp": 3000},
    "rkd": {"ce": 1, "rkd": 1},
    "pkt": {"ce": 1, "pkt": 30000},
    "cc": {"ce": 1, "cc": 0.02},
    "itrd": {"ce": 1, "itrd": 1},
    "dcd": {"ce": 1, "dcd": 1},
    "dcd+kd": {"ce": 1, "kd": 1, "dcd": 1},
    "crd": {"ce": 1, "crd": 0.8},
    "crd+kd": {"ce": 1, "kd": 1, "crd": 0.8},
    "rrd": {"ce": 1, "rrd": 1},
    "rrd+kd": {"ce": 1, "kd": 1, "rrd": 1},
    "fitnet": {"ce": 1, "fitnet": 100},
    "at": {"ce": 1, "at": 1000},
    "nst": {"ce": 1, "nst": 50},
    "vid": {"ce": 1, "vid": 1},
    "semckd": {"ce": 1, "kd": 1, "semckd": 400},
    "reviewkd": {"ce": 1, "reviewkd": 5},
    "srrl": {"ce": 1, "kd": 1, "srrl": 1},
    "simkd": {"ce": 0, "simkd": 1},
    "ab": {"ce": 1, "ab": 1},
    "ft": {"ce": 1, "ft": 200},
    "fsp": {"ce": 1, "fsp": 50},
}


@pytest.mark.parametrize("name", methods.METHODS)
def test_methods_have_the_published_weights(name):
    weights = {objective: options.weight for objective, options in methods.method(name).items()}
    if name in methods.UNVERIFIED:
        assert weights == _PUBLISHED.get(name, {"ce": 1, name: 1})
    else:
        assert weights == _PUBLISHED[name]


def test_published_options_are_the_defaults():
    chosen = methods.method("dkd+dist+kd+crd+rrd+rkd+itrd")
    for name, fields in {
        "kd": {"temperature": 4},
        "dkd": {"temperature": 4, "alpha": 1, "beta": 8, "warmup": 20},
        "dist": {"temperature": 4, "beta": 2, "gamma": 2},
        "crd": {"temperature": 0.07, "negatives": 16384, "dim": 128},
        "rrd": {"preset": "sharp_student", "queue_size": "auto", "dim": 128},
        "rkd": {"distance": 25, "angle": 50},
        "itrd": {"correlation": 2, "mutual": 0.05},
    }.items():
        assert fields.items() <= dict(chosen[name]).items()


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("sp+vid", {"ce": 1, "sp": 3000, "vid": 1}),
        ("vid+kd+crd", {"ce": 1, "kd": 1, "crd": 0.8, "vid": 1}),
        ("ce+kd", {"ce": 1, "kd": 1}),
        ("wsld+crd", {"ce": 0, "wsld": 1, "crd": 0.8}),
        ("semckd+kd", {"ce": 1, "kd": 1, "semckd": 400}),
    ],
)
def test_any_combination_is_a_method(name, weights):
    assert {key: options.weight for key, options in methods.method(name).items()} == weights


def test_options_are_set_on_the_command_line(monkeypatch):
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values)
    overrides = {
        "crd.memory": "bank",
        "crd.negatives": 7,
        "crd.weight": 0.5,
        "rrd.temperature_student": 0.2,
        "rrd.push_before": True,
        "rrd.chunk": 0,
        "at.power": 1.5,
        "reviewkd.width": 16,
    }
    command = ["program", "--config=configs/digits.py:smoke,crd+rrd+at+reviewkd"]
    command += [f"--config.objectives.{field}={value}" for field, value in overrides.items()]
    # ml_collections reads overrides from sys.argv.
    monkeypatch.setattr("sys.argv", command)
    values(command)
    sections = holder.value.objectives
    for field, value in overrides.items():
        name, option = field.split(".")
        assert sections[name][option] == value
        assert type(sections[name][option]) is type(value)
        if option != "weight":
            # The factory accepts the value.
            _create(name, **{option: value})


@pytest.mark.parametrize(
    "case", [*objectives.RECORDS, "crd bank", "rrd momentum", "rrd momentum_reference"]
)
def test_the_fields_of_an_objective_create_a_differentiable_objective(case):
    name, _, memory = case.partition(" ")
    objective = _create(name, **({"memory": memory} if memory else {}))
    network = toy.init(0)
    outputs = toy.apply(network, _images(0))
    start = jax.eval_shape(lambda key: objective.init(key, outputs, outputs), jax.random.key(0))
    batch = Batch(_images(0), np.arange(_BATCH) % toy.CLASSES, np.arange(_BATCH))

    def mean(trained, state):
        student = toy.apply(trained["student"], batch.image)
        state = state._replace(params=trained["objective"])
        both_views = batch._replace(second=SecondView(student, outputs))
        losses, memory = objective.loss(state, student, outputs, both_views)
        return jnp.mean(losses), (losses, memory)

    trained = {"student": network, "objective": start.params}
    gradients, (losses, memory) = jax.eval_shape(jax.grad(mean, has_aux=True), trained, start)
    assert losses.shape in ((), (_BATCH,))
    assert losses.dtype == jnp.float32
    chex.assert_trees_all_equal_shapes_and_dtypes(gradients, trained)
    chex.assert_trees_all_equal_shapes_and_dtypes(memory, start.memory)


def _images(seed):
    images = np.random.default_rng(seed).standard_normal((_BATCH, *_IMAGE))
    return jnp.asarray(images, jnp.float32)


# The remaining tests run the trainer's program on real networks.
_PAIRS = {"one family": ("resnet8", "resnet8"), "two families": ("resnet8", "vgg8")}
# Objectives that share a program compile faster.
_TRAINED = [("one family", method) for method in ("rrd+kd+fitnet+kdsvd+scalekd", "ft+fsp")] + [
    ("two families", method)
    for method in (
        "kd+wsld+dkd+dist+r2kd+cmkd+rld+wttm+ctkd+sdd+ofa+wkd+embed+sp+rkd+pkt+cc+ckd+itrd+ega",
        "dcd+crd+disco+rrd+seed+compress+fitnet+at+nst+pkth+vid+ssim+semckd+reviewkd+srrl",
        *("simkd", "ab+ft", "mlkd+crld+vrm+rdd", "crd bank"),
        *("rrd momentum", "rrd momentum_reference"),
    )
]
# Refusal of objectives that compare channels, for families whose numbers of channels differ.
_CHANNELS = (
    "compares maps channel by channel: the student's taps are .*x128 .*, the teacher's .*x16 "
)
_REFUSED = {
    ("two families", "kdsvd"): _CHANNELS,
    ("two families", "fsp"): _CHANNELS,
    ("two families", "scalekd"): "the student has only one",
}


def test_every_objective_is_tested_on_two_families():
    tested = [method for pair, method in (*_TRAINED, *_REFUSED) if pair == "two families"]
    parts = {part for method in tested for part in method.split()[0].split("+")}
    assert parts | {"ce"} == set(objectives.OBJECTIVES)


@pytest.fixture(scope="module")
def weights():
    """Random variables by the name of the network."""
    return {
        name: networks.init(networks.create(name, _CLASSES), jax.random.key(0), _IMAGE)
        for name in {name for pair in _PAIRS.values() for name in pair}
    }


@pytest.fixture
def _shared_weights(weights, monkeypatch):
    by_network = {networks.create(name, _CLASSES): tree for name, tree in weights.items()}
    monkeypatch.setattr(networks, "init", lambda network, key, image_shape: by_network[network])


def _create_recipe(pair, method):
    """Creates the recipe of a method from its config, as the trainer does."""
    name, _, memory = method.partition(" ")
    config = launch.get_config("cifar100", f"smoke,{'-'.join(_PAIRS[pair])},{name}")
    if memory:
        config.objectives[name].memory = memory
    config.optimizer.learning_rate = 0.001
    # Augmentations take long to compile.
    config.data.augment = "none"
    return recipe.create(parse(config).student.training, _CLASSES, 3 * _BATCH)


def _build(plan, pair):
    needs_teacher = any(objective.needs_teacher for objective in plan.objectives.values())
    teacher = networks.create(_PAIRS[pair][0], _CLASSES) if needs_teacher else None
    mesh = parallel.make_mesh(jax.devices()[:1])
    return program.build(plan, mesh, _IMAGE, 3, resident=False, teacher=teacher)


def _batches():
    rng = np.random.default_rng(0)
    for step in range(3):
        yield Batch(
            image=rng.integers(0, 256, (_BATCH, *_IMAGE), np.uint8),
            label=rng.integers(0, _CLASSES, _BATCH, np.int32),
            index=np.arange(_BATCH, dtype=np.int32) + step * _BATCH,
        )


@pytest.mark.long
@pytest.mark.usefixtures("_shared_weights")
@pytest.mark.parametrize(("pair", "method"), _TRAINED)
def test_every_method_trains(pair, method, weights):
    plan = _create_recipe(pair, method)
    # The teacher's weights differ from the student's.
    teacher = jax.tree.map(lambda x: x + 0.01, weights[_PAIRS[pair][0]])
    built = _build(plan, pair)
    state = built.create(0, teacher)
    first = jax.device_get(state)
    for batch in _batches():
        state, logged = built.train_step(state, teacher, batch)
        assert set(logged) == {"loss", "top1", *(f"loss/{name}" for name in plan.objectives)}
        # All steps are in the first epoch of the warm-up.
        losses = {name: logged[f"loss/{name}"] / max(t.warmup, 1) for name, t in plan.terms.items()}
        total = sum(plan.terms[name].weight * loss for name, loss in losses.items())
        np.testing.assert_allclose(logged["loss"], total, rtol=1e-5)
        assert np.isfinite(logged["loss"])
    last = jax.device_get(state)
    chex.assert_tree_all_finite((last.params, last.batch_stats, last.memory))
    chex.assert_trees_all_equal(last.frozen, first.frozen)
    chex.assert_trees_all_equal_shapes_and_dtypes(last.memory, first.memory)
    for before, after in zip(*map(jax.tree.leaves, (first.params, last.params)), strict=True):
        # An objective or weight decay changes each parameter; with simkd, the bias of the student's
        # classifier stays zero.
        assert np.any(before != after) or (method == "simkd" and not np.any(before))


@pytest.mark.long
@pytest.mark.usefixtures("_shared_weights")
@pytest.mark.parametrize(("pair", "method"), _REFUSED)
def test_objectives_that_do_not_fit_the_networks_are_refused_in_one_line(pair, method):
    with pytest.raises(errors.InputError, match=_REFUSED[pair, method]) as caught:
        _build(_create_recipe(pair, method), pair)
    assert "\n" not in str(caught.value)
