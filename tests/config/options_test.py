"""Free options of optimizers: set in Python and on the command line like declared fields."""

import sys

import pytest
from absl import flags
from ml_collections import config_flags

from rrd_jax.config import defaults


@pytest.mark.parametrize(
    "change",
    [
        lambda config: setattr(config.optimizer.options, "b1", 0.8),
        lambda config: config.optimizer.options.__setitem__("b1", 0.8),
        lambda config: setattr(config.optimizer, "options", {"b1": 0.8}),
        lambda config: config.optimizer.update({"options": {"b1": 0.8}}),
        lambda config: config.update_from_flattened_dict({"optimizer.options.b1": 0.8}),
    ],
)
@pytest.mark.parametrize("locked", [False, True])
def test_options_can_be_set_in_python(change, locked):
    config = defaults()
    if locked:
        config.lock()
    change(config)
    assert dict(config.optimizer.options) == {"b1": 0.8}
    assert dict(config.copy_and_resolve_references().optimizer.options) == {"b1": 0.8}
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
