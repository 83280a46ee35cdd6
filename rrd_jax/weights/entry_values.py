"""Reads the values of entries as finite float32 arrays."""

from typing import Any

import numpy as np

from rrd_jax import networks
from rrd_jax.networks import Stored
from rrd_jax.weights import key_renaming

FLOATS = ("float16", "bfloat16", "float32", "float64")


def check(value: Any) -> None:
    """Raises a ValueError with the reason if an entry has no floats, without reading its values."""
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


def read(value: Any) -> np.ndarray:
    """Returns the floats of an entry; raises a ValueError with the reason if there are none."""
    check(value)
    try:
        if isinstance(value, Stored):
            return value.read()
        # A tensor may be on any device, and NumPy lacks bfloat16.
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            value = (value if value.dtype.itemsize == 8 else value.float()).numpy()
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


def read_float32(name: str, value: Any) -> np.ndarray:
    """Returns the float32 values of an entry; raises a ValueError with the reason if invalid."""
    array = read(value)
    if problem := networks.invalid_values(array, is_variance=name.endswith("running_var")):
        raise ValueError(problem)
    return array.astype(np.float32)
