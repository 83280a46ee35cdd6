"""Values of entries as finite float32 arrays."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from rrd_jax import networks
from rrd_jax.weights import key_renaming

FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclasses.dataclass(frozen=True)
class Stored:
    """An array that is read when it is needed.

    Attributes:
      shape: shape of the array.
      dtype: name of its type.
      read: () -> the array.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def read(value: Any) -> np.ndarray:
    """Returns an entry's floats; raises a ValueError with the reason if it has none."""
    dtype = str(value.dtype).removeprefix("torch.")
    if getattr(value, "is_meta", False):
        raise ValueError("has a shape, but no values (a meta tensor)")
    if getattr(value, "is_quantized", False) or dtype.startswith(("qint", "quint")):
        raise ValueError(f"is quantised ({dtype}), where floats are wanted: dequantize() it")
    layout = str(getattr(value, "layout", "torch.strided")).removeprefix("torch.")
    if layout != "strided":
        raise ValueError(f"is sparse ({layout}): to_dense() it")
    if dtype not in FLOATS:
        raise ValueError(f"is {dtype}, where floats are wanted ({', '.join(FLOATS)})")
    if 0 in value.shape:
        raise ValueError(f"has no values, its shape is {tuple(value.shape)}")
    try:
        if isinstance(value, Stored):
            return value.read()
        if hasattr(value, "detach"):  # a tensor of any device; NumPy lacks bfloat16
            value = value.detach().cpu()
            value = (value if dtype == "float64" else value.float()).numpy()
        return np.asarray(value)
    except Exception as error:  # of a library that stores values in a way of its own
        raise ValueError(f"cannot be read ({str(error).strip()[:100]})") from error


def with_rank(value: Any, rank: int) -> Any:
    """Returns an entry with `rank` axes, if only last axes of length one differ."""
    shape = tuple(value.shape)
    wanted = key_renaming.with_rank(shape, rank)
    if wanted == shape:
        return value
    if isinstance(value, Stored):
        return Stored(wanted, value.dtype, lambda: value.read().reshape(wanted))
    return value.reshape(wanted)


def all_of(entries: dict[str, Any]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the float32 values of all entries, and a line for each without finite floats."""
    arrays, faults = {}, []
    for name, value in entries.items():
        try:
            array = read(value)
        except ValueError as error:
            faults.append(f"{name} {error}")
            continue
        if problem := networks.invalid_values(array, is_variance=name.endswith("running_var")):
            faults.append(f"{name} {problem}")
        else:
            arrays[name] = array.astype(np.float32)
    return arrays, faults
