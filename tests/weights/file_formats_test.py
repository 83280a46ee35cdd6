"""Detection of weight file formats by content."""

import io
import pickle
import sys
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from rrd_jax import errors
from rrd_jax.weights import files, to_torch
from tests.weights.state_dicts_test import random_variables


def _zip(*names):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, "nothing")
    return content.getvalue()


def _safetensors(**arrays):
    return safetensors.numpy.save(arrays or {"a": np.ones(3, np.float32)})


# Content of a file and a part of the message; the file name does not matter.
_FILES = [
    (b"", r"is empty \(0 bytes\)"),
    (b"no weights at all", "is a text file that starts with 'no weights at all'"),
    (b"<!DOCTYPE html>", "is a web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid", "run `git lfs pull`"),
    (b"\xfe\xfd\xfc" * 99, "not a PyTorch file, or damaged"),
    (bytes(5000), "filled with zeros"),
    (b"\x89HDF\r\n\x1a\n" + bytes(600), "Keras"),
    (b"\x1f\x8b\x08\x00", "unpack it first"),
    (pickle.dumps({"a": 1}), "a plain pickle, which is not loaded"),
    (_zip("a/code/b.py", "a/data.pkl", "a/constants.pkl"), "TorchScript"),
    (_zip("letter.txt"), "a zip archive, but not PyTorch's"),
    (_zip("a/data.pkl")[:-30], "damaged or incomplete"),
    (_safetensors()[:-1], "it is damaged"),
    (_safetensors()[:30], "it is damaged"),
    (_safetensors() + b"x", "it is damaged"),
]


@pytest.mark.parametrize(("content", "message"), _FILES, ids=range(len(_FILES)))
def test_the_error_for_a_file_without_weights_describes_its_content(
    content, message, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ("t.pth", "t.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(errors.InputError, match=message) as caught:
            files.load(tmp_path / name, "resnet8")
        assert "\n" not in str(caught.value)


def test_safetensors_are_detected_under_any_file_name(tmp_path):
    state_dict = to_torch("resnet8", random_variables("resnet8", 4, (8, 8, 3)))
    (tmp_path / "model.bin").write_bytes(safetensors.numpy.save(state_dict))
    variables, _ = files.load(tmp_path / "model.bin", "resnet8")
    np.testing.assert_array_equal(variables["params"]["fc"]["bias"], state_dict["fc.bias"])


def test_folders_of_other_libraries_are_refused(tmp_path):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "pytorch_model.bin").touch()
    with pytest.raises(errors.InputError, match="pass the file, .*hf/pytorch_model.bin"):
        files.load(tmp_path / "hf", "resnet8")
    (tmp_path / "empty.pth").mkdir()
    for path in (tmp_path / "empty.pth", tmp_path / "nothing", tmp_path / "nothing@best"):
        with pytest.raises(errors.InputError, match="a .pth or .safetensors file"):
            files.load(path, "resnet8")


def test_the_error_without_torch_names_the_alternatives(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "teacher.pth").write_bytes(_zip("teacher/data.pkl"))
    with pytest.raises(errors.InputError, match=r"rrd_jax\[torch\].*safetensors"):
        files.load(tmp_path / "teacher.pth", "resnet8")
