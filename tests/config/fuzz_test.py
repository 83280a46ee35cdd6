"""Fuzz test of configs: each config becomes a Job or an error of one line, never a traceback."""

import contextlib
import io
import re

import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict, config_flags

from rrd_jax import errors
from rrd_jax.config import explain, parse, validation
from rrd_jax.config.fields import FIELDS
from rrd_jax.terminal import cli
from rrd_jax.training import recipe
from tests import fuzz, launch

# Random values of these fields would import modules, or build and compile networks.
_NOT_DRAWN = (
    "objectives",
    "student.model",
    "teacher.model",
    "optimizer.name",
    "optimizer.schedule",
)
_BASE = launch.digits("smoke,resnet8-resnet8,rrd+kd+crd+dcd+ft")


def _kinds() -> dict:
    kinds = {field.path: field.kind for field in FIELDS.values() if field.path not in _NOT_DRAWN}
    for name, options in _BASE.objectives.items():
        options_of = validation.option_kinds(name, options)
        kinds |= {
            f"objectives.{name}.{option}": kind
            for option, kind in (validation.OBJECTIVE_FIELDS | options_of).items()
            if option in options
        }
    return kinds


_KINDS = _kinds()
_PATHS = st.sampled_from(sorted(_KINDS))


def _values(draw_from):
    """Returns a strategy for one to three fields with values."""
    pair = _PATHS.flatmap(lambda path: st.tuples(st.just(path), draw_from(_KINDS[path])))
    return st.lists(pair, min_size=1, max_size=3).map(dict)


def _parse(fields) -> recipe.Job | errors.InputError:
    config = _BASE.copy_and_resolve_references()
    for path, value in fields.items():
        section, _, name = path.rpartition(".")
        holder = config
        for part in filter(None, section.split(".")):
            holder = holder[part]
        with holder.unlocked(), holder.ignore_type():
            # Assignment to an existing float field would convert integers and booleans.
            del holder[name]
            holder[name] = ConfigDict(value) if isinstance(value, dict) else value
    try:
        return parse(config, platform="cpu")
    except errors.InputError as error:
        return error


def _is_one_line(text: str) -> bool:
    return bool(text.strip()) and len(text.strip().splitlines()) == 1


def _check_valid(fields):
    result = _parse(fields)
    if not isinstance(result, recipe.Job):
        assert _is_one_line(str(result))


def _check_invalid(fields):
    path = next(iter(fields))
    result = _parse({path: fields[path]})
    is_refused = isinstance(result, errors.InputError)
    assert is_refused, f"{path}={fields[path]!r} is accepted"
    assert _is_one_line(str(result))
    assert path.rpartition(".")[2] in str(result)


def _check_texts(fields):
    argv = ["program", "--config=configs/digits.py:smoke,resnet8-resnet8,rrd+kd+crd+dcd+ft"]
    argv += [f"--config.{path}={text}" for path, text in fields.items()]
    values, stderr = flags.FlagValues(), io.StringIO()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    code = 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(stderr):
        patch.setattr(flags, "FLAGS", values)
        try:
            cli.parse_flags(argv, holder, explain)
            cli.guard(lambda: parse(holder.value, platform="cpu"))
        except SystemExit as stop:
            code = stop.code
    if code:
        assert code == 1
        assert re.match("error: .", stderr.getvalue())
        assert _is_one_line(stderr.getvalue()), stderr.getvalue()


_CHECKS = ((_check_valid, fuzz.valid), (_check_invalid, fuzz.invalid), (_check_texts, fuzz.texts))
_IDS = ("valid", "invalid", "texts")


@pytest.mark.parametrize(("check", "draw_from"), _CHECKS, ids=_IDS)
def test_a_config_becomes_a_job_or_one_line(check, draw_from):
    fuzz.seeded(fuzz.settings(120)(given(_values(draw_from))(check)))()


@pytest.mark.long
@pytest.mark.parametrize(("check", "draw_from"), _CHECKS, ids=_IDS)
def test_many_configs_become_a_job_or_one_line(check, draw_from):
    fuzz.seeded(fuzz.long_settings(300)(given(_values(draw_from))(check)))()
