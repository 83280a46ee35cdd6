"""The fields that are named where a step does not fit: each is there, and was not set so."""

import functools

import pytest

from rrd_jax.config import parse
from rrd_jax.jobs import memory_advice
from rrd_jax.training import recipe
from tests import launch


def _named(argument, devices=1, **fields):
    training = parse(launch.digits(argument, **fields)).student.training
    given = recipe.create(training, num_classes=10, examples=1000)
    return [
        *memory_advice.for_state(given, devices),
        *memory_advice.for_activations(given, devices),
    ]


_PLAIN = [
    "a smaller objectives.rrd.queue_size",
    "a smaller train.batch_size",
    "a larger train.accumulate",
    "train.remat=all",
]


def test_all_that_helps_is_named():
    assert _named("resnet8-resnet8,rrd") == _PLAIN


@pytest.mark.parametrize(
    ("argument", "fields", "gone"),
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
def test_what_is_done_already_or_cannot_be_is_not(argument, fields, gone):
    assert _named(argument, **fields) == [name for name in _PLAIN if name not in gone]


def test_a_network_without_blocks_is_computed_twice_between_its_convolutions():
    assert "train.remat=convolutions" in _named("vgg8-vgg8,rrd")


def test_options_of_objectives_are_named_where_they_count():
    chunked = _named("resnet8-resnet8,rrd", **{"objectives.rrd.chunk": 0})
    assert chunked == [*_PLAIN, "objectives.rrd.chunk=None"]
    bank = _named("resnet8-resnet8,crd", **{"objectives.crd.memory": "bank"})
    assert bank[0] == "objectives.crd.memory=fifo"
    assert "a smaller objectives.crd.negatives" in bank[1:]
    assert "shard_parameters=True" in _named("resnet8-resnet8,rrd", devices=8)


@pytest.mark.parametrize("name", [*_PLAIN, "objectives.rrd.memory=fifo", "shard_parameters=True"])
def test_what_is_named_is_a_field_of_the_config(name):
    path, _, value = name.split()[-1].partition("=")
    config = launch.digits("resnet8-resnet8,rrd")
    usual = functools.reduce(getattr, path.split("."), config)
    config.update_from_flattened_dict({path: type(usual)(value) if value else usual})
    parse(config)
