"""Loading of weight files, and the convert program."""

import argparse
import json
import pathlib
import pickle
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import rrd_jax
from rrd_jax import checkpoints, errors, networks
from rrd_jax import convert as program
from rrd_jax.weights import files, from_torch, to_torch
from tests import golden
from tests.weights.state_dicts_test import random_variables


def _state_dict():
    file = golden.load("resnet8")
    return golden.named_weights(file["entry_names"].tolist(), file["entry_shapes"])


def _assert_same(actual, expected):
    for entry, value in expected.items():
        np.testing.assert_array_equal(np.asarray(actual[entry]), value)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_safetensors_of_every_precision_are_read_without_torch(dtype, tmp_path):
    state_dict = {k: v.astype(dtype) for k, v in _state_dict().items() if "tracked" not in k}
    path = tmp_path / "resnet8.safetensors"
    safetensors.numpy.save_file({f"module.{k}": v for k, v in state_dict.items()}, path)
    variables, meta = files.load(path, "resnet8")
    assert (meta["num_classes"], meta["image_shape"][-1]) == (100, 3)
    assert variables["params"]["conv1"]["kernel"].dtype == np.float32
    restored = to_torch("resnet8", variables)
    _assert_same(restored, {k: v.astype(np.float32) for k, v in state_dict.items()})


@pytest.mark.parametrize("legacy", [True, False])
def test_files_of_torch_save_are_read(legacy, tmp_path):
    torch = pytest.importorskip("torch")
    state_dict, path = _state_dict(), tmp_path / "ckpt_epoch_240.pth"
    tensors = {
        f"module.{entry}": torch.from_numpy(value.copy()) for entry, value in state_dict.items()
    }
    extras = {"epoch": 240, "accuracy": np.float64(72.5), "opt": argparse.Namespace(lr=0.05)}
    for content in (tensors, {"model": tensors, **extras}):
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        variables, _ = files.load(path, "resnet8")
        _assert_same(to_torch("resnet8", variables), state_dict)


class _Malicious:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return pathlib.Path.touch, (self.trace,)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_malicious_pickle_is_not_executed(form, tmp_path):
    torch = pytest.importorskip("torch")
    trace, path = tmp_path / "trace", tmp_path / "teacher.pth"
    content = {"model": _Malicious(trace)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
        pickle.loads(path.read_bytes())
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
        torch.load(path, weights_only=False)
    # Unsafe loading executes the pickle.
    assert trace.exists()
    trace.unlink()
    with pytest.raises(errors.InputError, match="can execute code|is damaged"):
        files.load(path, "resnet8")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("name", "maker"),
    [
        ("resnet18", "resnet18"),
        pytest.param("resnet50", "resnet50", marks=pytest.mark.long),
        pytest.param("mobilenetv2", "mobilenet_v2", marks=pytest.mark.long),
        pytest.param("shufflenetv2_x1_0", "shufflenet_v2_x1_0", marks=pytest.mark.long),
    ],
)
def test_state_dicts_of_torchvision_load_unchanged(name, maker):
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    peer = getattr(torchvision.models, maker)(weights=None, num_classes=10).eval()
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        expected = peer(torch.from_numpy(images)).numpy()
    variables = from_torch(name, peer.state_dict())
    outputs = networks.create(name, 10).apply(variables, golden.to_nhwc(images))
    assert golden.relative(outputs.logits, expected) < 1e-5
    restored = to_torch(name, variables)
    peer.load_state_dict({entry: torch.from_numpy(value) for entry, value in restored.items()})


def _convert(*arguments):
    command = [sys.executable, "-m", "rrd_jax.convert", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.long
def test_the_convert_program_writes_a_teacher_checkpoint(tmp_path):
    state_dict = to_torch("resnet8", random_variables("resnet8", 10, (8, 8, 1)))
    path, output = tmp_path / "resnet8.safetensors", tmp_path / "teacher"
    safetensors.numpy.save_file(state_dict, path)
    arguments = ["--model=resnet8", f"--input={path}", f"--output={output}"]
    done = _convert(*arguments)
    assert done.returncode == 0, done.stderr
    assert "resnet8: 77,754 parameters, 10 classes, 1 image channels" in done.stdout
    variables, meta = checkpoints.load_student(output)
    assert meta == {"model": "resnet8", "num_classes": 10, "image_shape": [32, 32, 1]}
    _assert_same(to_torch("resnet8", variables), state_dict)
    repeated = _convert(*arguments)
    assert repeated.returncode == 2
    assert "Traceback" not in repeated.stderr
    # XLA may print warnings about cached programs before the last line.
    last = repeated.stderr.strip().split("\n")[-1]
    assert last.startswith("error: ")
    assert "already contains checkpoints" in last


@pytest.mark.parametrize(
    ("model", "message"),
    [("resnet9", "did you mean 'resnet8'"), ("resnet8", "x.pth does not exist")],
)
def test_an_unknown_network_and_a_missing_file_are_refused(model, message, tmp_path):
    with pytest.raises(errors.InputError, match=message):
        program.run(model, tmp_path / "x.pth", tmp_path / "out")


@pytest.mark.parametrize("output", ["file", "file/folder"])
def test_a_file_as_the_output_folder_is_refused(output, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(errors.InputError, match="--output=.* a file; set it to a folder"):
        program.run("resnet8", tmp_path / "missing.pth", tmp_path / output)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("https://x/y.pth", "a URL .https://x/y.pth.*must be a path"),
        ("hf:https://x/y.pth", "a URL .https://x/y.pth.*must be a path"),
        ("gs://x/y.pth@best", "bucket 'x' is not a valid name"),
    ],
)
def test_a_url_is_refused(path, message):
    with pytest.raises(errors.InputError, match=message):
        files.load(pathlib.Path(path), "resnet8")


def test_weights_that_are_not_finite_are_not_converted(tmp_path):
    state_dict = _state_dict()
    state_dict["fc.bias"] = state_dict["fc.bias"] * np.nan
    safetensors.numpy.save_file(state_dict, tmp_path / "x.safetensors")
    with pytest.raises(errors.InputError, match="not finite"):
        program.run("resnet8", tmp_path / "x.safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_config_next_to_a_file_is_converted_with_it(tmp_path, capsys):
    variables = random_variables("resnet8", 2, (8, 8, 1))
    entries = to_torch("resnet8", variables)
    safetensors.numpy.save_file(entries, tmp_path / "model.safetensors")
    images = {"input_size": [1, 16, 16], "mean": [0.3], "std": [0.2], "crop_pct": 0.8}
    config = {"architecture": "resnet8", "num_classes": 2, "label_names": ["a, b", "\x1bc"]}
    (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": images}))
    program.run("resnet8", tmp_path / "model.safetensors", tmp_path / "out")
    assert "classes a, b to \\x1bc; images 16x16, resized to 20" in capsys.readouterr().out
    loaded = rrd_jax.load(tmp_path / "out")
    assert (loaded.image_shape, loaded.mean) == ((16, 16, 1), (0.3,))
    assert loaded.about.class_names == ("a, b", "\x1bc")
    assert loaded.about.preprocessing.resize == 20
    # This config belongs to other weights.
    config["num_classes"], config["label_names"] = 3, []
    (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": images}))
    _, meta = files.load(tmp_path / "model.safetensors", "resnet8")
    assert "about" not in meta
