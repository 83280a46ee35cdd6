import numpy as np
import pytest
import safetensors.numpy

from rrd_jax import errors
from rrd_jax.weights import files, from_torch, to_torch
from tests.weights.state_dicts_test import few_networks, random_variables

pytestmark = pytest.mark.usefixtures("few_networks")
__all__ = ["few_networks"]


def _state_dict(offset=0.0):
    given = to_torch("resnet8", random_variables("resnet8", 10, (8, 8, 3)))
    return {k: v + np.float32(offset) if v.dtype == np.float32 else v for k, v in given.items()}


_RAW, _OTHER = _state_dict(), _state_dict(1.0)
_LARGER = to_torch("resnet14", random_variables("resnet14", 10, (8, 8, 3)))


def _behind(prefix, state_dict=_RAW):
    return {prefix + name: value for name, value in state_dict.items()}


def _inside(part, wrapper):
    return {name.replace(part, f"{part}{wrapper}."): value for name, value in _RAW.items()}


def _assert_taken(content, wanted, **options):
    taken = to_torch("resnet8", from_torch("resnet8", content, **options))
    for name, value in wanted.items():
        np.testing.assert_array_equal(taken[name], value)


@pytest.mark.parametrize(
    "content",
    [
        *(_behind(p) for p in ("a.b.c.", "_orig_mod.module.")),
        _behind("module.") | {"n_averaged": np.array(7)},
        _behind("model.") | {"criterion.weight": np.ones(10, np.float32)},
        _inside("layer1.", "module"),
        _inside("layer2.0.", "_orig_mod"),
        {"state_dict": _RAW, "epoch": 3, "args": None, "best": np.float64(71.2)},
        {"checkpoint": {"net": {"weights": _behind("model.")}}},
        {"model": _RAW, "optimizer": {"state": {0: {"exp_avg": np.ones(3)}}, "param_groups": [{}]}},
        {"model": _RAW, "state_dict": {name: value.copy() for name, value in _RAW.items()}},
        [_RAW, 3],
    ],
)
def test_keys_and_prefixes_are_found_out(content, capsys):
    _assert_taken(content, _RAW)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "taken", "other"),
    [
        ({"state_dict": _RAW, "state_dict_ema": _OTHER}, "state_dict_ema", "state_dict"),
        ({"model": _RAW, "model_ema": _RAW, "state_dict_ema": _OTHER}, "state_dict_ema", "model"),
        ({"model": _RAW, "ema": {"module": _OTHER, "decay": 0.9}}, "ema.module", "model"),
        (_behind("net.") | _behind("ema_net.", _OTHER), "ema_net", "net"),
        (_behind("net.") | _behind("swa_net.module.", _OTHER), "swa_net.module", "net"),
    ],
)
def test_averaged_weights_are_taken_and_the_note_names_the_others(content, taken, other, capsys):
    _assert_taken(content, _OTHER)
    note = capsys.readouterr().out
    assert note.startswith(f"note: the state dict: using the averaged weights under {taken}, not")
    assert f"for those, write FILE@{other}" in note
    _assert_taken(content, _RAW, key=other)


def test_of_several_networks_the_one_that_fits_is_taken_and_said(capsys):
    _assert_taken(_behind("student.") | _behind("teacher.", _LARGER), _RAW)
    assert "using the weights under student; the entries under teacher" in capsys.readouterr().out
    _assert_taken({"student": _RAW, "ema": {"shadow": [np.ones(3)]}}, _RAW)
    assert "using the weights under student; the entries under ema" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [
        {"student": _RAW, "teacher": _OTHER},
        _behind("student.") | _behind("teacher.", _OTHER),
        {str(i): _state_dict(i) for i in range(9)},
    ],
)
def test_two_that_fit_are_refused_until_one_is_named(content):
    with pytest.raises(
        errors.InputError, match="different weights of .* under .*; name one of the keys"
    ):
        from_torch("resnet8", content)


def test_a_key_behind_a_files_name_chooses(tmp_path):
    path = tmp_path / "both@home.safetensors"
    safetensors.numpy.save_file(_behind("student.") | _behind("teacher.", _OTHER), path)
    for key, wanted in (("student", _RAW), ("teacher", _OTHER)):
        variables, _ = files.load(path.with_name(f"{path.name}@{key}"), "resnet8")
        np.testing.assert_array_equal(variables["params"]["fc"]["bias"], wanted["fc.bias"])
    with pytest.raises(errors.InputError, match="nothing under 'ema'; its keys: student, teacher"):
        files.load(path.with_name(f"{path.name}@ema"), "resnet8")
