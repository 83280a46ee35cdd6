"""State dicts with random damage, which must load exactly or be refused with one message."""

import pathlib
import tempfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from rrd_jax import errors, networks
from rrd_jax.weights import files, from_torch, to_torch
from tests import fuzz
from tests.weights.state_dicts_test import random_variables

_BASE = to_torch("resnet8", random_variables("resnet8", 10, (8, 8, 3)))
_NAMES = sorted(_BASE)
_MODELS = {name: networks.MODELS[name] for name in ("resnet8", "resnet14")}

_names = st.sampled_from(_NAMES)
_words = st.sampled_from(
    ["module", "model", "net", "_orig_mod", "student", "ema", "state_dict", "a", "layer1"]
)
_keys = st.lists(_words, max_size=3).map(".".join)
_values = st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -1.0])
_dtypes = st.sampled_from(
    [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.int32, np.uint8, np.bool_]
)
_edits = st.lists(
    st.one_of(
        st.tuples(st.just("drop"), _names),
        st.tuples(st.just("rename"), _names, st.one_of(_names, st.text(max_size=9))),
        st.tuples(st.just("reshape"), _names),
        st.tuples(st.just("empty"), _names),
        st.tuples(st.just("value"), _names, _values),
        st.tuples(st.just("type"), _names, _dtypes),
        st.tuples(st.just("add"), st.text(min_size=1, max_size=9)),
    ),
    max_size=2,
)
_damages = st.one_of(
    st.none(),
    st.tuples(st.just("cut"), st.floats(0, 1)),
    # Flipped bits are in the header.
    st.tuples(st.just("flip"), st.floats(0, 1), st.integers(0, 7)),
)


def _edited(state_dict, edits):
    """Returns a copy of the state dict with edits, some of which are harmless."""
    result = dict(state_dict)
    for kind, name, *rest in edits:
        if kind == "add":
            result.setdefault(name, np.ones(2, np.float32))
        elif name not in result:
            continue
        elif kind == "drop":
            del result[name]
        elif kind == "rename":
            result[rest[0]] = result.pop(name)
        elif kind == "reshape":
            result[name] = np.stack([result[name]] * 2)
        elif kind == "empty":
            result[name] = np.zeros(0, np.float32)
        elif kind == "value" and result[name].size and result[name].dtype == np.float32:
            result[name] = result[name].copy()
            result[name].flat[0] = rest[0]
        elif kind == "type":
            with np.errstate(all="ignore"):
                result[name] = result[name].astype(rest[0])
    return result


def _damaged(content, damage):
    if not damage:
        return content
    kind, position, *bit = damage
    if kind == "cut":
        return content[: int(position * len(content))]
    index = int(position * (7 + int.from_bytes(content[:8], "little")))
    return content[:index] + bytes([content[index] ^ (1 << bit[0])]) + content[index + 1 :]


def _loadable(state_dict):
    """Returns the float32 values that may be loaded, by name; None if the state dict is invalid."""
    weights = {k: v for k, v in state_dict.items() if not k.endswith("num_batches_tracked")}
    shapes = {k: v.shape for k, v in _BASE.items() if v.ndim}
    if {name: value.shape for name, value in weights.items()} != shapes:
        return None
    for name, value in weights.items():
        floats = value.dtype.kind == "f" or value.dtype == ml_dtypes.bfloat16
        if not floats or not np.isfinite(value.astype(np.float32)).all():
            return None
        if name.endswith("running_var") and value.min() < 0:
            return None
    return {name: value.astype(np.float32) for name, value in weights.items()}


def _check(key, edits, has_second, damage):
    edited = _edited(_BASE, edits)
    prefix = f"{key}." if key else ""
    state_dict = {prefix + name: value for name, value in edited.items()}
    state_dict |= {f"other.{name}": value for name, value in _BASE.items() if has_second}
    content = _damaged(safetensors.numpy.save(state_dict), damage)
    allowed = [_loadable(edited)] + [_loadable(_BASE)] * has_second
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "MODELS", _MODELS)
        path = pathlib.Path(folder) / "t.safetensors"
        path.write_bytes(content)
        variables = message = None
        try:
            variables, _ = files.load(path, "resnet8")
        except errors.InputError as error:
            message = str(error)
    if message is not None:
        assert len(message.split("\n")) <= 6
        assert has_second or damage or allowed == [None], message
        return
    loaded = to_torch("resnet8", variables)
    matches = [values for values in allowed if values is not None and _is_same(loaded, values)]
    assert matches, "the loaded weights match no network in the file"


def _is_same(actual, expected):
    return all(np.array_equal(actual[name], value) for name, value in expected.items())


@fuzz.settings(80)
@given(_keys, _edits, st.booleans(), _damages)
def test_a_damaged_state_dict_is_loaded_exactly_or_refused(key, edits, has_second, damage):
    _check(key, edits, has_second, damage)


@pytest.mark.long
@fuzz.seeded
@fuzz.long_settings(1500)
@given(_keys, _edits, st.booleans(), _damages)
def test_many_damaged_state_dicts_are_loaded_exactly_or_refused(key, edits, has_second, damage):
    _check(key, edits, has_second, damage)


@fuzz.settings(50)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5) | st.just(np.ones((2, 2), np.float32)),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(max_size=5) | st.integers() | _names, inner, max_size=3)
        ),
        max_leaves=9,
    )
)
def test_arbitrary_nested_content_is_refused_in_one_message(content):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "MODELS", _MODELS)
        with pytest.raises(errors.InputError) as caught:
            from_torch("resnet8", content)
    assert len(str(caught.value).split("\n")) <= 6
