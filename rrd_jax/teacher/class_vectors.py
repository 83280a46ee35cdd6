"""Files of class vectors, such as a text encoder's embeddings of the class names."""

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

_NAMES = ("names", "class_names")  # of the entry that holds them
_WANTED = "wanted is a .npy, .npz or .safetensors file with one array [C, D] of floats"


class ClassVectors(NamedTuple):
    """The content of a file: `rows` [C, D] float32 and class `names`, () if there are none."""

    rows: np.ndarray
    names: tuple[str, ...]


def read(path: pathlib.Path, dataset: data.Dataset | ModelInfo) -> np.ndarray:
    """Reads a vector for each class of the data, [C, D] float32.

    Vectors with names are matched with the data's classes by name, if these have names too. Names
    are the entry `names` of a .npz file, or a JSON list under `names` in the metadata of a
    .safetensors file.

    Args:
      path: of the file.
      dataset: its classes.

    Raises:
      InputError: the file cannot be read, or does not hold a vector for each class.
    """
    rows, names = _read(path)
    count = dataset.num_classes
    about = f"teacher.class_vectors in {path}"
    if names and len(names) != len(rows):
        raise errors.InputError(f"{about} are {len(rows)}, but have {len(names)} names")
    found = class_matching.match(names, len(rows), dataset.class_names, count)
    if found.order is not None:
        rows = rows[list(found.order)]
    elif not found.compares:
        reason = found.reason.replace("it does not know", "there is none of") if names else ""
        raise errors.InputError(
            f"{about} are of {len(rows):,} classes, and the data have {count:,}"
            + (f": {reason}" if reason else "; one for each is wanted, in the order of labels")
        )
    lengths = np.linalg.norm(rows, axis=1)
    if not np.isfinite(lengths).all() or not lengths.all():
        bad = int(np.argmax(~np.isfinite(lengths) | (lengths == 0)))
        raise errors.InputError(f"{about} hold one that is zero or not finite, of class {bad}")
    return rows


def _read(path: pathlib.Path) -> ClassVectors:
    kinds = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors}
    if path.suffix not in kinds:
        raise errors.InputError(f"teacher.class_vectors is {path}; {_WANTED}")
    try:
        arrays, names = kinds[path.suffix](path)
    except (OSError, ValueError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).strip().split("\n")[0]
        raise errors.InputError(
            f"teacher.class_vectors {path} cannot be read ({reason}); {_WANTED}"
        ) from error
    shapes = {name: f"{array.dtype}{list(array.shape)}" for name, array in arrays.items()}
    matrices = [a for a in arrays.values() if a.ndim == 2 and a.size and a.dtype.kind == "f"]
    if len(matrices) != 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "nothing"
        raise errors.InputError(f"teacher.class_vectors {path} holds {listed}; {_WANTED}")
    return ClassVectors(matrices[0].astype(np.float32), tuple(map(str, names)))


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
        raise ValueError("its names are no list")
    return arrays, names
