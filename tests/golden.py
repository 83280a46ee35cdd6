"""Reads the golden files, and makes weights from entry names as they were made there."""

import pathlib
import zlib

import numpy as np

_FOLDER = pathlib.Path(__file__).parent / "golden"


def load(name):
    with np.load(_FOLDER / f"{name}.npz") as file:
        return dict(file)


def named_weights(names, shapes, salt=""):
    """A state dict whose every entry is drawn from its name."""
    return {name: _entry(salt + name, shape(text)) for name, text in zip(names, shapes)}  # noqa: B905


def shape(text):
    """The shape that a golden file writes as 3x3x16."""
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
    return np.ascontiguousarray(np.transpose(images, (0, 2, 3, 1)))


def relative(found, wanted):
    """Largest difference over the largest magnitude."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    return np.abs(found - wanted).max() / np.abs(wanted).max()


def linear(file, name):
    """A PyTorch Linear's `param/<name>.*` as kernel and bias."""
    return {"kernel": file[f"param/{name}.weight"].T, "bias": file[f"param/{name}.bias"]}


def check_linear(found, file, name, *, floor=0.0):
    """Asserts that gradients of kernel and bias are those in the file.

    Args:
      found: {"kernel", "bias"}.
      file: what `load` gave.
      name: entry such as grad/param/embed.
      floor: absolute difference that is let through, for gradients that are rounding only.
    """
    for key, value in (("weight", found["kernel"].T), ("bias", found["bias"])):
        wanted = file[f"{name}.{key}"]
        difference = np.abs(np.asarray(value) - wanted).max()
        assert difference <= max(1e-5 * np.abs(wanted).max(), floor), (key, difference)
