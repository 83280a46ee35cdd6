"""Files of class vectors for zero-shot teachers."""

import json

import numpy as np
import pytest
import safetensors.numpy

from rrd_jax import errors
from rrd_jax.data.model_info import ModelInfo
from rrd_jax.teacher import class_vectors

_ROWS = np.arange(12, dtype=np.float32).reshape(3, 4) + 1
_NAMED = ModelInfo("", 3, class_names=("cat", "dog", "owl"))


def test_vectors_are_read_from_each_file_format(tmp_path):
    np.save(tmp_path / "v.npy", _ROWS.astype(np.float16))
    np.savez(tmp_path / "v.npz", anything=_ROWS, names=["owl", "cat", "dog"])
    safetensors.numpy.save_file(
        {"text": _ROWS}, tmp_path / "v.safetensors", {"names": json.dumps(["owl", "cat", "dog"])}
    )
    np.testing.assert_array_equal(class_vectors.read(tmp_path / "v.npy", _NAMED), _ROWS)
    # Rows of named vectors follow the order of the data set's class names.
    for name in ("v.npz", "v.safetensors"):
        np.testing.assert_array_equal(class_vectors.read(tmp_path / name, _NAMED), _ROWS[[1, 2, 0]])
        np.testing.assert_array_equal(class_vectors.read(tmp_path / name, ModelInfo("", 3)), _ROWS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"v": _ROWS[:2]}, "vectors of 2 classes, but the data has 3"),
        ({"v": _ROWS[0]}, r"contains v float32\[4\]; expected .* one array \[C, D\]"),
        ({"v": _ROWS, "w": _ROWS}, r"contains v float32\[3, 4\], w float32\[3, 4\]; expected"),
        ({"v": _ROWS.astype(int)}, "expected .* of floats"),
        ({"v": _ROWS * [[1], [0], [1]]}, "zero or not finite, of class 1"),
        ({"v": _ROWS * [[1], [1], [np.nan]]}, "zero or not finite, of class 2"),
        ({"v": _ROWS, "names": ["cat", "dog"]}, "has 3 vectors, but 2 names"),
        ({"v": _ROWS, "names": ["cat", "dog", "ant"]}, "missing 'owl'"),
    ],
)
def test_vectors_that_do_not_fit_the_classes_are_refused(tmp_path, content, message):
    np.savez(tmp_path / "v.npz", **content)
    with pytest.raises(errors.InputError, match=message):
        class_vectors.read(tmp_path / "v.npz", _NAMED)


@pytest.mark.parametrize("name", ["v.npy", "v.npz", "v.safetensors", "v.txt"])
def test_missing_and_invalid_files_are_refused(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(errors.InputError, match="class_vectors"):
        class_vectors.read(path, _NAMED)
    path.write_bytes(b"no numbers")
    with pytest.raises(errors.InputError, match=r"expected a \.npy, \.npz or \.safetensors"):
        class_vectors.read(path, _NAMED)
