"""Reads the tensors of a TorchScript archive, such as OpenAI's CLIP, without running its code.

Modules become dicts of their attributes. A fixed list of names restricts the pickle in the archive
to tensors, numbers and containers. PyTorch is not required.
"""

import collections
import math
import pathlib
import pickle
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

from rrd_jax import errors

_STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class _Module:
    """An object of a class of the archive, with attributes only."""


class _Unpickler(pickle.Unpickler):
    """An unpickler for TorchScript that rejects all but a few names."""

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(archive.open(f"{folder}data.pkl"))
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        """Returns the class or function for a name in the pickle."""
        if module.startswith("__torch__"):
            return _Module
        if module == "torch" and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        functions = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
        }
        if (module, name) in functions:
            return functions[module, name]
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return list
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")

    def persistent_load(self, pid: Any) -> np.ndarray:
        """Returns the values of a storage."""
        _, dtype, key, _, count = pid
        content = self._archive.read(f"{self._folder}data/{int(key)}")
        return np.frombuffer(content, dtype, count)


def _tensor(storage: np.ndarray, offset: int, shape: Any, strides: Any, *_: Any) -> np.ndarray:
    shape, strides = tuple(shape), tuple(strides)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if min((offset, *shape, *strides)) < 0 or (math.prod(shape) and last >= len(storage)):
        raise pickle.UnpicklingError("a tensor exceeds its storage")
    steps = tuple(stride * storage.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False).copy()


def _parameter(value: np.ndarray, *_: Any) -> np.ndarray:
    return value


def read(path: pathlib.Path) -> Any:
    """Reads the modules of an archive as nested dicts of arrays.

    Args:
      path: a file of `torch.jit.save` whose checksums were verified.

    Raises:
      InputError: the file is damaged or contains objects other than modules and tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            folder = next(n for n in names if n.endswith("data.pkl")).removesuffix("data.pkl")
            return _plain(_Unpickler(archive, folder).load())
    # Unpickling can raise any type of error.
    except Exception as error:
        raise errors.InputError(
            f"{path} is a TorchScript file that cannot be read ({error}); save its weights alone"
            " with torch.save(torch.jit.load(FILE, 'cpu').state_dict(), FILE)"
        ) from error


def _plain(value: Any) -> Any:
    """Converts modules to dicts of their attributes."""
    if isinstance(value, _Module):
        return {name: _plain(part) for name, part in vars(value).items()}
    return value
