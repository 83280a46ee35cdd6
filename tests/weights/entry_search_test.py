"""Search for the right entries in nested, prefixed and averaged state dicts."""

import numpy as np
import pytest
import safetensors.numpy

from rrd_jax import errors
from rrd_jax.weights import files, from_torch, to_torch
from tests.weights.state_dicts_test import random_variables, three_networks

pytestmark = pytest.mark.usefixtures("three_networks")
__all__ = ["three_networks"]


def _state_dict(offset=0.0):
    state_dict = to_torch("resnet8", random_variables("resnet8", 10, (8, 8, 3)))
    return {
        k: v + np.float32(offset) if v.dtype == np.float32 else v for k, v in state_dict.items()
    }


_RAW, _OTHER = _state_dict(), _state_dict(1.0)
_LARGER = to_torch("resnet14", random_variables("resnet14", 10, (8, 8, 3)))


def _prefixed(prefix, state_dict=_RAW):
    return {prefix + name: value for name, value in state_dict.items()}


def _wrapped(part, wrapper):
    return {name.replace(part, f"{part}{wrapper}."): value for name, value in _RAW.items()}


def _assert_selected(content, expected, **options):
    selected = to_torch("resnet8", from_torch("resnet8", content, **options))
    for name, value in expected.items():
        np.testing.assert_array_equal(selected[name], value)


@pytest.mark.parametrize(
    "content",
    [
        *(_prefixed(p) for p in ("a.b.c.", "_orig_mod.module.")),
        _prefixed("module.") | {"n_averaged": np.array(7)},
        _prefixed("model.") | {"criterion.weight": np.ones(10, np.float32)},
        _wrapped("layer1.", "module"),
        _wrapped("layer2.0.", "_orig_mod"),
        {"state_dict": _RAW, "epoch": 3, "args": None, "best": np.float64(71.2)},
        {"checkpoint": {"net": {"weights": _prefixed("model.")}}},
        {"model": _RAW, "optimizer": {"state": {0: {"exp_avg": np.ones(3)}}, "param_groups": [{}]}},
        {"model": _RAW, "state_dict": {name: value.copy() for name, value in _RAW.items()}},
        [_RAW, 3],
    ],
)
def test_keys_and_prefixes_are_removed(content, capsys):
    _assert_selected(content, _RAW)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "selected", "other"),
    [
        ({"state_dict": _RAW, "state_dict_ema": _OTHER}, "state_dict_ema", "state_dict"),
        ({"model": _RAW, "model_ema": _RAW, "state_dict_ema": _OTHER}, "state_dict_ema", "model"),
        ({"model": _RAW, "ema": {"module": _OTHER, "decay": 0.9}}, "ema.module", "model"),
        (_prefixed("net.") | _prefixed("ema_net.", _OTHER), "ema_net", "net"),
        (_prefixed("net.") | _prefixed("swa_net.module.", _OTHER), "swa_net.module", "net"),
    ],
)
def test_averaged_weights_are_preferred_and_a_note_names_the_alternative(
    content, selected, other, capsys
):
    _assert_selected(content, _OTHER)
    note = capsys.readouterr().out
    assert note.startswith(
        f"note: the state dict: using the averaged weights under {selected}, not"
    )
    assert f"to use these, pass FILE@{other}" in note
    _assert_selected(content, _RAW, key=other)


def test_the_matching_one_of_several_networks_is_selected_with_a_note(capsys):
    _assert_selected(_prefixed("student.") | _prefixed("teacher.", _LARGER), _RAW)
    assert "using the weights under student; the entries under teacher" in capsys.readouterr().out
    _assert_selected({"student": _RAW, "ema": {"shadow": [np.ones(3)]}}, _RAW)
    assert "using the weights under student; the entries under ema" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [
        {"student": _RAW, "teacher": _OTHER},
        _prefixed("student.") | _prefixed("teacher.", _OTHER),
        {str(i): _state_dict(i) for i in range(9)},
    ],
)
def test_several_matching_networks_are_refused_without_a_key(content):
    with pytest.raises(
        errors.InputError, match="different weights of .* under .*; name one of the keys"
    ):
        from_torch("resnet8", content)


def test_a_key_after_the_file_name_selects_a_network(tmp_path):
    path = tmp_path / "both@home.safetensors"
    safetensors.numpy.save_file(_prefixed("student.") | _prefixed("teacher.", _OTHER), path)
    for key, expected in (("student", _RAW), ("teacher", _OTHER)):
        variables, _ = files.load(path.with_name(f"{path.name}@{key}"), "resnet8")
        np.testing.assert_array_equal(variables["params"]["fc"]["bias"], expected["fc.bias"])
    with pytest.raises(errors.InputError, match="nothing under 'ema'; its keys: student, teacher"):
        files.load(path.with_name(f"{path.name}@ema"), "resnet8")
