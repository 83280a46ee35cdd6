"""Access to the golden files, and the weights that they were computed with."""

import pathlib
import zlib

import numpy as np

_FOLDER = pathlib.Path(__file__).parent / "golden"


def load(name):
    """Returns the arrays of a golden file by name."""
    with np.load(_FOLDER / f"{name}.npz") as file:
        return dict(file)


def named_weights(names, shapes, salt=""):
    """Returns a state dict with entries that are drawn at random, seeded by their names."""
    return {name: _entry(salt + name, shape(text)) for name, text in zip(names, shapes)}  # noqa: B905


def shape(text):
    """Returns the shape that a golden file writes as 3x3x16."""
    return tuple(int(size) for size in text.split("x")) if text else ()


def _entry(name, shape):
    z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_var"):
        value = 1 + 0.1 * np.abs(z)
    elif name.endswith(("bias", "running_mean")):
        value = 0.1 * z
    elif len(shape) >= 2:
        value = z * np.sqrt(2 / np.prod(shape[1:]))
    else:
        value = 1 + 0.1 * z
    return value.astype(np.float32)


def to_nhwc(images):
    """Returns images [B, C, H, W] as [B, H, W, C]."""
    return np.ascontiguousarray(np.transpose(images, (0, 2, 3, 1)))


def relative(actual, expected):
    """Returns the largest absolute difference, divided by the largest absolute expected value."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return np.abs(actual - expected).max() / np.abs(expected).max()


def linear(file, name):
    """Returns kernel and bias of a PyTorch Linear that the file stores as `param/<name>.*`."""
    return {"kernel": file[f"param/{name}.weight"].T, "bias": file[f"param/{name}.bias"]}


def check_linear(actual, file, name, *, floor=0.0):
    """Asserts that the gradients of kernel and bias equal those of a file.

    Args:
      actual: {"kernel", "bias"}, the gradients.
      file: the arrays that `load` returns.
      name: prefix of the entries, such as "grad/param/embed".
      floor: the absolute difference that is always accepted, for gradients that consist of rounding
        errors.
    """
    for key, value in (("weight", actual["kernel"].T), ("bias", actual["bias"])):
        expected = file[f"{name}.{key}"]
        difference = np.abs(np.asarray(value) - expected).max()
        assert difference <= max(1e-5 * np.abs(expected).max(), floor), (key, difference)
