"""Advice on config fields that reduce memory: only existing fields that are not set already."""

import functools

import pytest

from rrd_jax.config import parse
from rrd_jax.jobs import memory_advice
from rrd_jax.training import recipe
from tests import launch


def _advise(argument, devices=1, **fields):
    training = parse(launch.digits(argument, **fields)).student.training
    plan = recipe.create(training, num_classes=10, examples=1000)
    return [
        *memory_advice.for_state(plan, devices),
        *memory_advice.for_activations(plan, devices),
    ]


_PLAIN = [
    "a smaller objectives.rrd.queue_size",
    "a smaller train.batch_size",
    "a larger train.accumulate",
    "train.remat=all",
]


def test_only_memories_that_the_objective_has_are_named():
    patches = _advise("resnet8-resnet8,rrd", **{"objectives.rrd.over": "patches"})
    assert patches == ["a smaller objectives.rrd.patch_queue_size", *_PLAIN[1:]]
    both = _advise("resnet8-resnet8,rrd", **{"objectives.rrd.over": "both"})
    assert both == [_PLAIN[0], patches[0], *_PLAIN[1:]]
    assert _advise("resnet8-resnet8,rrd", **{"objectives.rrd.preset": "lightly"}) == _PLAIN


def test_each_field_that_reduces_memory_is_named():
    assert _advise("resnet8-resnet8,rrd") == _PLAIN


@pytest.mark.parametrize(
    ("argument", "fields", "absent"),
    [
        ("resnet8-resnet8,rrd", {"train.remat": "all"}, ["train.remat=all"]),
        ("vgg8-vgg8,rrd", {"train.remat": "convolutions"}, ["train.remat=all"]),
        (
            "resnet8-resnet8,rrd",
            {"train.batch_size": 4, "train.accumulate": 4},
            ["a larger train.accumulate"],
        ),
        ("resnet8,ce", {}, ["a smaller objectives.rrd.queue_size"]),
    ],
)
def test_fields_that_are_set_or_do_not_apply_are_not_named(argument, fields, absent):
    assert _advise(argument, **fields) == [name for name in _PLAIN if name not in absent]


def test_a_network_without_blocks_is_advised_to_recompute_between_convolutions():
    assert "train.remat=convolutions" in _advise("vgg8-vgg8,rrd")


def test_options_of_objectives_are_named_if_they_reduce_memory():
    chunked = _advise("resnet8-resnet8,rrd", **{"objectives.rrd.chunk": 0})
    assert chunked == [*_PLAIN, "objectives.rrd.chunk=None"]
    bank = _advise("resnet8-resnet8,crd", **{"objectives.crd.memory": "bank"})
    assert bank[0] == "objectives.crd.memory=fifo"
    assert "a smaller objectives.crd.negatives" in bank[1:]
    assert "shard_parameters=True" in _advise("resnet8-resnet8,rrd", devices=8)


@pytest.mark.parametrize("name", [*_PLAIN, "objectives.rrd.memory=fifo", "shard_parameters=True"])
def test_advice_names_existing_fields(name):
    path, _, value = name.split()[-1].partition("=")
    config = launch.digits("resnet8-resnet8,rrd")
    default = functools.reduce(getattr, path.split("."), config)
    config.update_from_flattened_dict({path: type(default)(value) if value else default})
    parse(config)
