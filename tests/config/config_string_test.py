"""Config strings with import paths, and what no config string may say twice."""

import importlib
import sys

import pytest

from rrd_jax import errors
from rrd_jax.config.options import Options
from rrd_jax.networks import is_network
from tests import launch, tiny

_MODULE = """
import flax.linen as nn
from flax import nnx

class Small(nn.Module):
    num_classes: int

class Other(nnx.Module):
    pass

def make(num_classes, width=3):
    return Small(num_classes)

def loss(student, teacher, batch, power=2):
    return student.logits.mean(-1)

def rrd(student, teacher, batch):
    return student.logits.mean(-1)

def queued(student, teacher, batch, queue_size: int | None = None, negatives="all", epochs=2.5):
    return student.logits.mean(-1)

class Pair:
    init = apply = make
"""


@pytest.fixture(autouse=True)
def _modules(tmp_path, monkeypatch):
    """my_nets and my_losses, which hold the same, in the working directory."""
    for name in ("my_nets", "my_losses"):
        (tmp_path / f"{name}.py").write_text(_MODULE)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield
    for name in ("my_nets", "my_losses"):
        sys.modules.pop(name, None)


def _chosen(argument):
    """Teachers, student and objectives."""
    config = launch.get_config("digits", argument)
    teachers = config.teacher if isinstance(config.teacher, list) else [config.teacher]
    models = [teacher.model for teacher in teachers if teacher.model]
    return models, config.student.model, set(config.objectives)


@pytest.mark.parametrize(
    ("argument", "teachers", "student", "objectives"),
    [
        ("my_nets:Small-resnet8", ["my_nets:Small"], "resnet8", {"ce", "rrd", "kd"}),
        (
            "rrd+my_losses:loss,my_nets:make+resnet8-my_nets:Small",
            ["my_nets:make", "resnet8"],
            "my_nets:Small",
            {"ce", "rrd", "loss"},
        ),
        ("my_nets:Other", [], "my_nets:Other", {"ce"}),
        ("my_nets:make,smoke", [], "my_nets:make", {"ce"}),
        ("my_losses:loss+kd", ["resnet8x4"], "resnet8", {"ce", "kd", "loss"}),
    ],
)
def test_import_paths_stand_for_networks_and_objectives(argument, teachers, student, objectives):
    assert _chosen(argument) == (teachers, student, objectives)


def test_options_that_are_no_numbers_stay_as_they_are_where_memories_are_small():
    queued = launch.get_config("digits", "my_losses:queued,smoke").objectives.queued
    assert (queued.queue_size, queued.negatives, queued.epochs) == (None, "all", 1)


def test_each_teacher_has_options_of_its_own():
    config = launch.get_config("digits", "my_nets:make+my_nets:make-my_nets:Small,kd")
    assert config.name == "digits-my_nets.make+my_nets.make-my_nets.Small-kd"  # as of a folder
    config.lock()
    config.teacher[0].options.width = 5
    assert dict(config.teacher[1].options) == dict(config.student.options) == {}
    assert isinstance(config.student.options, Options)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("resnet8-resnet8,resnet8", "'resnet8-resnet8' and 'resnet8' each name networks"),
        ("kd,rrd", "'kd' and 'rrd' each name a method; leave one out"),
        ("rrd+rrd", "method 'rrd\\+rrd' names two objectives 'rrd'"),
        ("my_nets:loss+my_losses:loss", "names two objectives 'loss'"),
        ("my_losses:rrd", "'my_losses:rrd' has the name of a built-in objective, 'rrd'"),
        ("kd+my_nets:Small", "'my_nets:Small' in method 'kd\\+my_nets:Small' is a network"),
        ("my_nets:Small+my_nets:make", "is a network, but must be an objective"),
        ("resnet8-my-nets:Small", "'my' is not a network.*--config.student.model"),
        ("resnet9-my_nets:Small", "'resnet9' is not a network.*did you mean 'resnet8'"),
        ("resnet8-my_nets:", "'my_nets:' is not a network.*--config.student.model"),
        ("my_nets:", "invalid import path 'my_nets:' .*write MODULE:NAME"),
        ("my_nest:Small", "network or objective 'my_nest:Small': there is no module 'my_nest'"),
        ("kd+my_losses:lost", "has no 'lost'; did you mean 'loss'"),
        ("kdd+my_losses:loss", "unknown objective 'kdd' in method .*; did you mean 'kd'"),
        (
            "resnet8+resnet8",
            "invalid config option 'resnet8\\+resnet8'.* words smoke, folder, moco, dino",
        ),
    ],
)
def test_what_a_config_string_cannot_say_is_one_line(argument, message):
    with pytest.raises(errors.InputError, match=message) as caught:
        launch.get_config("digits", argument)
    assert "\n" not in str(caught.value)


def test_networks_are_told_from_objectives():
    module = importlib.import_module("my_nets")
    assert all(map(is_network, (module.Small, module.Other, module.make, module.Pair)))
    assert all(map(is_network, (tiny.NETWORK(num_classes=2), module.Pair())))
    assert not any(map(is_network, (module.loss, 3, None, Options, print)))
