"""Config strings: import paths of custom networks and objectives, and invalid options."""

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
    """Identical modules my_nets and my_losses in the working directory."""
    for name in ("my_nets", "my_losses"):
        (tmp_path / f"{name}.py").write_text(_MODULE)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield
    for name in ("my_nets", "my_losses"):
        sys.modules.pop(name, None)


def _get_choices(argument):
    """Returns the names of the teachers and the student, and the set of objectives."""
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
def test_import_paths_select_networks_and_objectives(argument, teachers, student, objectives):
    assert _get_choices(argument) == (teachers, student, objectives)


def test_smoke_reduces_only_options_that_are_numbers():
    queued = launch.get_config("digits", "my_losses:queued,smoke").objectives.queued
    assert (queued.queue_size, queued.negatives, queued.epochs) == (None, "all", 1)


def test_each_teacher_has_separate_options():
    config = launch.get_config("digits", "my_nets:make+my_nets:make-my_nets:Small,kd")
    # The name is also a folder's name and therefore contains no colons.
    assert config.name == "digits-my_nets.make+my_nets.make-my_nets.Small-kd"
    config.lock()
    config.teacher[0].options.width = 5
    assert dict(config.teacher[1].options) == dict(config.student.options) == {}
    assert isinstance(config.student.options, Options)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("resnet8-resnet8,resnet8", "'resnet8-resnet8' and 'resnet8' each name networks"),
        ("kd,rrd", "'kd' and 'rrd' each name a method; omit one"),
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
def test_an_invalid_config_string_is_refused_in_one_line(argument, message):
    with pytest.raises(errors.InputError, match=message) as caught:
        launch.get_config("digits", argument)
    assert "\n" not in str(caught.value)


def test_is_network_distinguishes_networks_from_objectives():
    module = importlib.import_module("my_nets")
    assert all(map(is_network, (module.Small, module.Other, module.make, module.Pair)))
    assert all(map(is_network, (tiny.NETWORK(num_classes=2), module.Pair())))
    assert not any(map(is_network, (module.loss, 3, None, Options, print)))
