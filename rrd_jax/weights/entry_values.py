"""Reads the values of entries as finite float32 arrays."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from rrd_jax import networks
from rrd_jax.weights import key_renaming

FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclasses.dataclass(frozen=True)
class Stored:
    """A lazily read array.

    Attributes:
      shape: shape of the array.
      dtype: name of the dtype.
      read: () -> the array.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def read(value: Any) -> np.ndarray:
    """Returns the floats of an entry; raises a ValueError with the reason if there are none."""
    dtype = str(value.dtype).removeprefix("torch.")
    if getattr(value, "is_meta", False):
        raise ValueError("has a shape, but no values (a meta tensor)")
    if getattr(value, "is_quantized", False) or dtype.startswith(("qint", "quint")):
        raise ValueError(f"is quantized ({dtype}), but must be floating-point; call dequantize()")
    layout = str(getattr(value, "layout", "torch.strided")).removeprefix("torch.")
    if layout != "strided":
        raise ValueError(f"is sparse ({layout}); call to_dense()")
    if dtype not in FLOATS:
        raise ValueError(f"is {dtype}, but must be one of {', '.join(FLOATS)}")
    if 0 in value.shape:
        raise ValueError(f"has no values (shape {tuple(value.shape)})")
    try:
        if isinstance(value, Stored):
            return value.read()
        # A tensor may be on any device, and NumPy lacks bfloat16.
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            value = (value if dtype == "float64" else value.float()).numpy()
        return np.asarray(value)
    # Libraries with custom tensor types raise errors of any type.
    except Exception as error:
        raise ValueError(f"cannot be read ({str(error).strip()[:100]})") from error


def with_rank(value: Any, rank: int) -> Any:
    """Returns an entry with `rank` axes: adds or removes trailing axes of length 1, if possible."""
    shape = tuple(value.shape)
    new_shape = key_renaming.with_rank(shape, rank)
    if new_shape == shape:
        return value
    if isinstance(value, Stored):
        return Stored(new_shape, value.dtype, lambda: value.read().reshape(new_shape))
    return value.reshape(new_shape)


def read_all(entries: dict[str, Any]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the float32 values of all entries, and a message for each invalid entry."""
    arrays, problems = {}, []
    for name, value in entries.items():
        try:
            array = read(value)
        except ValueError as error:
            problems.append(f"{name} {error}")
            continue
        if problem := networks.invalid_values(array, is_variance=name.endswith("running_var")):
            problems.append(f"{name} {problem}")
        else:
            arrays[name] = array.astype(np.float32)
    return arrays, problems
