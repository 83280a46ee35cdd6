"""Fields that only their taker knows can be set in every way that others can."""

import sys

import pytest
from absl import flags
from ml_collections import config_flags

from rrd_jax.config import defaults


def _set_attribute(config):
    config.optimizer.options.b1 = 0.8


def _set_item(config):
    config.optimizer.options["b1"] = 0.8


def _set_dict(config):
    config.optimizer.options = {"b1": 0.8}


def _update(config):
    config.optimizer.update({"options": {"b1": 0.8}})


def _update_flattened(config):
    config.update_from_flattened_dict({"optimizer.options.b1": 0.8})


@pytest.mark.parametrize(
    "change", [_set_attribute, _set_item, _set_dict, _update, _update_flattened]
)
@pytest.mark.parametrize("locked", [False, True])
def test_options_can_be_set_in_python(change, locked):
    config = defaults()
    if locked:
        config.lock()
    change(config)
    assert dict(config.optimizer.options) == {"b1": 0.8}
    assert dict(config.copy_and_resolve_references().optimizer.options) == {"b1": 0.8}


def test_options_take_values_of_any_type_one_after_the_other():
    options = defaults().optimizer.options
    options.b1 = 0.8
    options.b1 = "another type"
    assert options.b1 == "another type"


def test_options_can_be_set_on_the_command_line(monkeypatch):
    values = flags.FlagValues()
    arguments = ["--config.optimizer.options.b1=0.8", "--config.optimizer.options.name=x"]
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    config_flags.DEFINE_config_dict("config", defaults(), flag_values=values)
    values(sys.argv)
    assert dict(values.config.optimizer.options) == {"b1": 0.8, "name": "x"}
