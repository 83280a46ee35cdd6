"""The rounding errors of cached outputs, measured on some views before training."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import errors
from rrd_jax.teacher.row_format import DTYPES, RowFormat


class Accuracy(NamedTuple):
    """The differences of stored vectors from the network's.

    Attributes:
      mean: mean length of the difference, relative to the vector's length.
      largest: the largest of these lengths.
      angle: mean of 1 - the cosine.
    """

    mean: float
    largest: float
    angle: float

    def __str__(self) -> str:
        return f"{self.mean:.2%} (at most {self.largest:.2%}, 1 - cosine {self.angle:.1e})"


def exact(layout: RowFormat) -> RowFormat:
    """Returns the same layout in float32."""
    return dataclasses.replace(layout, dtype=DTYPES["float32"])


def measure(layout: RowFormat, rows: np.ndarray, head: Any) -> dict[str, Accuracy]:
    """Measures the errors of a layout.

    Args:
      layout: the layout.
      rows: [M, width], rows of the `exact` layout.
      head: the network's classifier, or ().

    Returns:
      The errors of "embeddings" and "patches", as far as they are stored.

    Raises:
      InputError: values exceed the range of the layout's dtype.
    """

    def pair(rows):
        outputs = exact(layout).decode(rows, head)
        stored = layout.encode(outputs).astype(layout.dtype)
        return outputs, layout.decode(stored, head)

    original, stored = jax.device_get(jax.jit(pair)(jnp.asarray(rows)))
    parts = {"embeddings": (original.embedding, stored.embedding)}
    if layout.has_patches:
        parts["patches"] = (original.patches, stored.patches)
    measured = {
        name: _compare(layout, *pair)
        for name, pair in parts.items()
        if not isinstance(pair[0], tuple)
    }
    return measured


def _compare(layout: RowFormat, original: np.ndarray, stored: np.ndarray) -> Accuracy:
    x, y = (array.reshape(-1, array.shape[-1]).astype(np.float64) for array in (original, stored))
    if not np.isfinite(y).all():
        raise errors.InputError(
            f"teacher.cache_dtype is {layout.dtype.name}, but the teacher's outputs reach"
            f" {np.abs(x).max():.3g}, which it cannot represent; set float32 or bfloat16"
        )
    lengths = np.maximum(np.linalg.norm(x, axis=1), 1e-12)
    differences = np.linalg.norm(x - y, axis=1) / lengths
    products = lengths * np.maximum(np.linalg.norm(y, axis=1), 1e-12)
    angles = 1 - (x * y).sum(axis=1) / products
    return Accuracy(float(differences.mean()), float(differences.max()), float(angles.mean()))
