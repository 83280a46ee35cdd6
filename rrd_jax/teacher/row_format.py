"""The layout of a teacher's cached outputs: one row of numbers for each view of an image."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import errors, functional, networks
from rrd_jax.networks import Outputs

# The types of `teacher.cache_dtype` but auto.
DTYPES = {
    name: np.dtype(dtype)
    for name, dtype in {
        "float32": jnp.float32,
        "bfloat16": jnp.bfloat16,
        "float16": jnp.float16,
        "int8": jnp.int8,
    }.items()
}
_INT8 = DTYPES["int8"]
_LARGEST = 127


@dataclasses.dataclass(frozen=True)
class RowFormat:
    """The layout of rows.

    A row contains the embedding, the logits if there is no classifier that computes them, and the
    patches. In int8, embedding and logits remain in float32, and each patch is a multiple, in
    float16, of 8-bit integers.

    Attributes:
      outputs: the network's Outputs, as shapes.
      dtype: dtype of a row. An int8 row contains the bytes of other types too.
      has_patches: whether rows contain patches.
    """

    outputs: Outputs
    dtype: np.dtype
    has_patches: bool

    @property
    def width(self) -> int:
        """The number of elements of a row."""
        return jax.eval_shape(self.encode, self.outputs).shape[-1]

    @property
    def is_exact(self) -> bool:
        """True if rows represent the network's outputs without rounding."""
        return self.dtype == DTYPES["float32"]

    def encode(self, outputs: Outputs) -> jax.Array:
        """Returns the rows [B, width] of Outputs; rows other than int8 are not rounded yet."""
        parts = [outputs.embedding] if outputs.head else [outputs.embedding, outputs.logits]
        parts = [part for part in parts if not isinstance(part, tuple)]
        patches = [outputs.patches] if self.has_patches else []
        if self.dtype != _INT8:
            parts += [patch.reshape(len(patch), -1) for patch in patches]
            return jnp.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
        parts = [_bytes(part.astype(jnp.float32)) for part in parts]
        for patch in patches:
            scale, integers = _quantized(patch.reshape(len(patch), -1, patch.shape[-1]))
            parts += [_bytes(scale), integers.reshape(len(patch), -1)]
        return jnp.concatenate(parts, axis=-1)

    def decode(self, rows: jax.Array, head: Any) -> Outputs:
        """Returns the Outputs of rows [B, width], without maps, in float32.

        Args:
          rows: rows of `dtype`, or of the dtype of `encode`.
          head: the classifier, or ().
        """
        embedding, logits, patches = self._split(rows)
        if self.outputs.head:
            outputs = networks.from_embedding(embedding, head)
        else:
            parts = (part.astype(jnp.float32) for part in (logits, embedding))
            outputs = Outputs(*(part if part.shape[-1] else () for part in parts))
        return outputs._replace(patches=patches) if self.has_patches else outputs

    def _split(self, rows: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Returns the embedding [B, D], the logits [B, C] and the patches; D and C may be 0."""
        sizes = [_width(self.outputs.embedding)]
        sizes.append(0 if self.outputs.head else _width(self.outputs.logits))
        item = 4 if self.dtype == _INT8 else 1
        parts, start = [], 0
        for size in sizes:
            part = rows[:, start : start + item * size]
            parts.append(_values(part, jnp.float32) if item > 1 else part)
            start += item * size
        if not self.has_patches:
            return *parts, None
        shape = (len(rows), *self.outputs.patches.shape[1:])
        rest = rows[:, start:]
        if self.dtype == _INT8:
            count = math.prod(shape[1:3])
            scale = _values(rest[:, : 2 * count], jnp.float16).astype(jnp.float32)
            integers = rest[:, 2 * count :].reshape(len(rows), count, shape[-1])
            rest = integers.astype(jnp.float32) * scale[..., None]
        return *parts, rest.astype(jnp.float32).reshape(shape)


def of_network(
    network: networks.Network,
    image_shape: tuple[int, ...],
    dtype: str,
    *,
    has_patches: bool,
) -> RowFormat:
    """Returns the layout of the rows of a network.

    Args:
      network: a network of `networks.create`.
      image_shape: (H, W, channels).
      dtype: a type of `teacher.cache_dtype`; "auto" for the network's dtype, and float32 if rows
        contain logits.
      has_patches: whether rows contain patches.

    Raises:
      InputError: the dtype is "int8", but rows contain no patches.
    """
    outputs = networks.summarize(network, image_shape).outputs
    if dtype == "int8" and not has_patches:
        raise errors.InputError(
            "teacher.cache_dtype is int8, which stores patches, but no objective compares patches;"
            " set float16 or bfloat16"
        )
    # Logits are stored in float32, embeddings in the dtype of the network.
    has_logits = not outputs.head and not isinstance(outputs.logits, tuple)
    default = np.dtype(np.float32 if has_logits else network.dtype)
    return RowFormat(outputs, DTYPES.get(dtype, default), has_patches)


def _width(part: Any) -> int:
    return 0 if isinstance(part, tuple) else part.shape[-1]


def _quantized(patches: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (scales [B, N] float16, integers [B, N, D] int8) of patches [B, N, D]."""
    patches = functional.wide(patches)
    scale = (jnp.max(jnp.abs(patches), axis=-1) / _LARGEST).astype(jnp.float16)
    divisor = scale.astype(patches.dtype)[..., None]
    ratios = jnp.where(divisor > 0, patches / jnp.where(divisor > 0, divisor, 1), 0)
    return scale, jnp.clip(jnp.round(ratios), -_LARGEST, _LARGEST).astype(jnp.int8)


def _bytes(values: jax.Array) -> jax.Array:
    """Returns the bytes of values [B, n] as int8 [B, n * size]."""
    return jax.lax.bitcast_convert_type(values, jnp.int8).reshape(len(values), -1)


def _values(stored: jax.Array, dtype: Any) -> jax.Array:
    """Returns the values [B, n] whose bytes are stored as int8 [B, n * size]."""
    size = jnp.dtype(dtype).itemsize
    return jax.lax.bitcast_convert_type(stored.reshape(len(stored), -1, size), dtype)
