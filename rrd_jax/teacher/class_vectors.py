"""Files of class vectors, such as the embeddings of class names by a text encoder."""

import json
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors

from rrd_jax import data, errors
from rrd_jax.data.model_info import ModelInfo
from rrd_jax.teacher import class_matching

# The entries of a file that can hold class names.
_NAMES = ("names", "class_names")
_EXPECTED = "expected a .npy, .npz or .safetensors file with one array [C, D] of floats"


class ClassVectors(NamedTuple):
    """The content of a file: `rows` [C, D] float32, and class `names`, () if missing."""

    rows: np.ndarray
    names: tuple[str, ...]


def read(path: pathlib.Path, dataset: data.Dataset | ModelInfo) -> np.ndarray:
    """Reads the vectors of the data's classes, [C, D] float32.

    If both vectors and classes have names, they are matched by name. Names of vectors are the entry
    `names` of a .npz file, or a JSON list under `names` in the metadata of a .safetensors file.

    Args:
      path: path of the file.
      dataset: the data set with the classes.

    Raises:
      InputError: the file cannot be read, or does not hold a vector for each class.
    """
    field = "teacher.class_vectors"
    rows, names = read_all(path, field)
    count = dataset.num_classes
    class_match = class_matching.match(names, len(rows), dataset.class_names, count)
    if class_match.order is not None:
        return rows[list(class_match.order)]
    if not class_match.compares:
        reason = class_match.reason if names else ""
        raise errors.InputError(
            f"{field} in {path} has vectors of {len(rows):,} classes, but the data has {count:,}"
            + (f": {reason}" if reason else "; pass one vector per class, in the order of labels")
        )
    return rows


def read_all(path: pathlib.Path, field: str) -> ClassVectors:
    """Reads all vectors of a file, and their names if the file has names.

    Args:
      path: path of the file.
      field: name of the field or argument, for messages.

    Raises:
      InputError: the file cannot be read, or a vector is zero or not finite.
    """
    kinds = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors}
    if path.suffix not in kinds:
        raise errors.InputError(f"{field} is {path}; {_EXPECTED}")
    try:
        arrays, names = kinds[path.suffix](path)
    except (OSError, ValueError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).strip().split("\n")[0]
        raise errors.InputError(f"{field} {path} cannot be read ({reason}); {_EXPECTED}") from error
    shapes = {name: f"{array.dtype}{list(array.shape)}" for name, array in arrays.items()}
    matrices = [a for a in arrays.values() if a.ndim == 2 and a.size and a.dtype.kind == "f"]
    if len(matrices) != 1:
        content = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "nothing"
        raise errors.InputError(f"{field} {path} contains {content}; {_EXPECTED}")
    rows = matrices[0].astype(np.float32)
    if names and len(names) != len(rows):
        raise errors.InputError(
            f"{field} in {path} has {len(rows)} vectors, but {len(names)} names; store one name per"
            " vector"
        )
    lengths = np.linalg.norm(rows, axis=1)
    if not np.isfinite(lengths).all() or not lengths.all():
        bad = int(np.argmax(~np.isfinite(lengths) | (lengths == 0)))
        raise errors.InputError(
            f"{field} in {path} has a vector that is zero or not finite, of class {bad}; replace it"
        )
    return ClassVectors(rows, tuple(map(str, names)))


def _npy(path: pathlib.Path) -> tuple[dict[str, np.ndarray], Any]:
    return {"an array": np.load(path, allow_pickle=False)}, ()


def _npz(path: pathlib.Path) -> tuple[dict[str, np.ndarray], Any]:
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    names = next((arrays.pop(name) for name in _NAMES if name in arrays), np.array(()))
    return arrays, names.tolist()


def _safetensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], Any]:
    with safetensors.safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
        metadata: Mapping[str, str] = file.metadata() or {}
    names = next((json.loads(metadata[name]) for name in _NAMES if name in metadata), ())
    if not isinstance(names, list | tuple):
        raise ValueError("its names are not a list")
    return arrays, names
