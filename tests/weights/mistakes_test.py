"""Invalid weight files, which must be refused with one message of at most six lines."""

import numpy as np
import pytest
import safetensors.numpy

from rrd_jax import errors
from rrd_jax.weights import files, from_torch, to_torch
from tests.weights.state_dicts_test import random_variables, three_networks

pytestmark = pytest.mark.usefixtures("three_networks")
__all__ = ["three_networks"]


def _state_dict(name):
    return to_torch(name, random_variables(name, 10, (8, 8, 3)))


_GOOD = _state_dict("resnet8")


def _with(**entries):
    return _GOOD | {name.replace("__", "."): value for name, value in entries.items()}


def _without(*ends):
    return {name: value for name, value in _GOOD.items() if not name.endswith(ends)}


def _bad(name, value):
    array = _GOOD[name].copy()
    array.flat[1] = value
    return _GOOD | {name: array}


_VALUES = {
    "nan": (_bad("conv1.weight", np.nan), "conv1.weight is not finite: 1 NaN of 432 values"),
    "infinite": (_bad("fc.bias", -np.inf), "fc.bias is not finite: 1 infinite of 10 values"),
    "all": (
        {k: v * np.nan for k, v in _GOOD.items()},
        r"47 of 47 entries are invalid:(\n  .* NaN of .*){4}\n  and 43 more$",
    ),
    "beyond float32": (
        _with(fc__bias=np.full(10, 1e300)),
        "10 beyond the range of float32",
    ),
    "variance": (
        _bad("bn1.running_var", -0.5),
        "bn1.running_var is a variance, but its minimum is -0.5",
    ),
    "integers": (_with(fc__bias=np.arange(10)), "fc.bias is (int|I)64, but must be one of float16"),
    "no classes": (
        _with(fc__weight=np.ones((0, 64), np.float32), fc__bias=np.ones(0, np.float32)),
        "fc.weight has no values",
    ),
    "parameters": (_without("running_mean", "running_var"), "running statistics of .* are missing"),
    "backbone": (_without("fc.weight", "fc.bias"), "its classifier fc is missing: .* a backbone"),
    "no bias": (_without("fc.bias"), "its classifier lacks fc.bias"),
    "head": (
        {k.replace("fc.", "head."): v for k, v in _GOOD.items()},
        "its classifier is not fc, but head",
    ),
    "classes": (_with(fc__bias=np.ones(7, np.float32)), "fc has inconsistent numbers of classes"),
    "width": (
        {k: np.concatenate([v, v]) if v.ndim else v for k, v in _GOOD.items()},
        "missing entries: 0, unexpected: 0, with another shape: 4[0-9]",
    ),
    "axes": (
        {k: v.transpose(2, 3, 1, 0) if v.ndim == 4 else v for k, v in _GOOD.items()},
        "axes of its convolutions",
    ),
    "missing": (_without("layer1.0.bn1.bias"), "damaged .missing entries: 1, unexpected: 0"),
    "more": (_with(loss__weight=np.ones(3, np.float32)), "missing entries: 0, unexpected: 1"),
    "another": (_state_dict("resnet14"), "it fits resnet14"),
    "unknown": ({"a": np.ones(3), "b": np.ones(3)}, "entries of another network: a, b"),
}


@pytest.mark.parametrize(("content", "message"), _VALUES.values(), ids=_VALUES)
def test_an_invalid_state_dict_is_refused(content, message, tmp_path):
    path = tmp_path / "t.safetensors"
    try:
        safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in content.items()}, path)
    except Exception:
        # Safetensors do not support the type.
        path = None
    reads = [lambda: from_torch("resnet8", content), lambda: files.load(path, "resnet8")]
    for read in reads if path else reads[:1]:
        with pytest.raises(errors.InputError, match=message) as caught:
            read()
        lines = str(caught.value).split("\n")
        assert len(lines) <= 6
        assert max(map(len, lines)) < 400


_CYCLE = {"model": {}}
_CYCLE["model"]["cycle"] = _CYCLE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_CYCLE, "holds no tensors"),
        ({}, "holds no tensors, only nothing"),
        (None, "only NoneType"),
        ("hello", "only str"),
        ({"state": {}, "param_groups": [{"lr": 1}]}, "the settings of an optimizer"),
        ({"state": {0: {"exp_avg": np.ones(3)}}, "param_groups": []}, "the state of an optimizer"),
        (np.ones((2, 3)), r"one tensor of shape \(2, 3\)"),
        ([np.ones(3), np.ones(2)], "2 tensors without names"),
        ({"a": {"b": np.ones(2)}, "a.b": np.ones(2)}, "two entries a.b"),
        ({"conv1.weight": [[1.0]]}, "holds no tensors, only conv1"),
    ],
)
def test_content_without_a_state_dict_is_refused_in_one_line(content, message):
    with pytest.raises(errors.InputError, match=message) as caught:
        from_torch("resnet8", content)
    assert "\n" not in str(caught.value)


# PyTorch warns that such tensors are experimental or deprecated.
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_tensors_without_dense_floats_are_refused_in_one_line(tmp_path):
    torch = pytest.importorskip("torch")
    weight, path = torch.ones(10, 64), tmp_path / "t.pth"
    good = {name: torch.from_numpy(value.copy()) for name, value in _GOOD.items()}
    for tensor, message in (
        (torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8), "is quantized"),
        (weight.to_sparse(), "is sparse"),
        (weight.to("meta"), "no values .a meta tensor"),
        (weight.to(torch.float8_e4m3fn), "is float8"),
        (weight * float("nan"), "640 NaN"),
        (weight.double() * 1e300, "640 beyond the range of float32"),
        (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "lacks fc.weight"),
    ):
        torch.save({"model": good | {"fc.weight": tensor}}, path)
        with pytest.raises(errors.InputError, match=message) as caught:
            files.load(path, "resnet8")
        assert str(caught.value).count("\n") <= 2, message


# TorchScript is deprecated.
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_torch_files_without_a_state_dict_are_refused_in_one_line(tmp_path):
    torch = pytest.importorskip("torch")
    network, path = torch.nn.Linear(2, 2), tmp_path / "teacher.pth"
    for content, message in (
        (network, r"more than tensors \(torch.nn.*state_dict\(\)"),
        ({"model": {"fc.bias": np.ones(3)}}, r"more than tensors \(numpy"),
        (list(network.parameters()), "2 tensors without names"),
        (torch.optim.Adam(network.parameters()).state_dict(), "the settings of an optimizer"),
        (torch.ones(3), "one tensor of shape"),
    ):
        torch.save(content, path)
        with pytest.raises(errors.InputError, match=message) as caught:
            files.load(path, "resnet8")
        assert "\n" not in str(caught.value)
    torch.jit.save(torch.jit.script(network), path)
    with pytest.raises(errors.InputError, match="entries of another network: weight, bias"):
        files.load(path, "resnet8")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_damaged_torch_file_is_refused(legacy, tmp_path):
    torch = pytest.importorskip("torch")
    good = {name: torch.from_numpy(value.copy()) for name, value in _GOOD.items()}
    path = tmp_path / "t.pth"
    torch.save(good, path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    for size in (1, 10, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(errors.InputError) as caught:
            files.load(path, "resnet8")
        assert "\n" not in str(caught.value)
    # The legacy format has no checksums.
    if not legacy:
        index = content.index(good["conv1.weight"].numpy().tobytes()[:64]) + 7
        path.write_bytes(content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :])
        with pytest.raises(errors.InputError, match="the checksum of .* does not match"):
            files.load(path, "resnet8")
