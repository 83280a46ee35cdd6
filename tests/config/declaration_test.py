"""Declarations of config fields: each use of a field follows from its declaration alone."""

import dataclasses

import pytest
from hypothesis import given

from docs.making import fields as reference
from rrd_jax import config as configs
from rrd_jax import errors, settings
from rrd_jax.config import describe, fields, parse, unused, validation
from rrd_jax.settings import kinds
from tests import fuzz, launch


@dataclasses.dataclass(frozen=True)
class _Weather:
    """Weather.

    Attributes:
      wind: the speed of the wind,
        in knots.
      gusts: the strongest gust.
      place: not a config field.

    Raises:
      InputError: never.
    """

    wind: int = settings.field("train.wind", 3, kinds.Integer(0, 9), changeable=True)
    gusts: tuple[float, ...] = settings.field(
        "train.gusts", (), kinds.Numbers(kinds.CHANCE), unused=settings.unless("train.wind")
    )
    place: str = ""


@pytest.fixture(autouse=True)
def _register_weather(monkeypatch):
    declared = fields.collect((*fields.DECLARING, _Weather))
    for path in declared.keys() - fields.FIELDS.keys():
        monkeypatch.setitem(fields.FIELDS, path, declared[path])


def _config(**values):
    config = launch.digits()
    with config.unlocked():
        config.train.update({"wind": 3, "gusts": ()} | values)
    return config


def test_a_declared_field_has_a_default_and_is_documented():
    assert configs.defaults().train.wind == 3
    assert "* train.wind = 5 [3]\n      Whole number from 0 to 9. the speed of the wind, in" in (
        describe(_config(wind=5))
    )
    assert "`train.gusts`" in reference.page()


def test_a_declared_field_is_checked():
    with pytest.raises(errors.InputError, match="train.wind is 10, but must be .* from 0 to 9"):
        parse(_config(wind=10))


@given(fuzz.valid(fields.collect((_Weather,))["train.gusts"].kind))
def test_a_declared_field_has_values_to_fuzz(gusts):
    assert parse(_config(gusts=gusts), platform="cpu").student.fields["train"]["gusts"] == [*gusts]


def test_a_declaration_determines_when_a_field_is_unused_or_changeable():
    values = validation.validate(_config(wind=0))
    assert ("train.gusts", "train.wind is 0") in list(unused.iterate_unused(values))
    assert ("train.gusts", "train.wind is 0") not in list(
        unused.iterate_unused(validation.validate(_config(wind=1)))
    )
    changeable = parse(_config()).free_fields
    assert "train.wind" in changeable
    assert "train.gusts" not in changeable


def test_a_dataclass_is_built_from_its_declared_fields():
    values = validation.validate(_config(wind=7, gusts=(0.5,)))
    assert settings.build(_Weather, values, place="here") == _Weather(7, (0.5,), "here")


def test_every_field_is_declared_once_and_has_a_meaning():
    declared = [f for cls in fields.DECLARING for f in settings.fields_of(cls).values()]
    assert len({field.path for field in declared}) == len(declared)
    assert all(field.meaning and field.kind.accepts(field.default) for field in declared)
    overridden = {field.overrides for field in declared} - {""}
    assert overridden <= {field.path for field in declared}
