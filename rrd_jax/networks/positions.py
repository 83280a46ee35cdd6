"""Position embeddings of transformers, resampled for images of another size."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax.networks.contract import Network
from rrd_jax.networks.summary import summarize

NAME = "pos_embed"
WAYS = ("authors", "transformers", "timm")
# DINOv2's authors add this number of patches to the size before they compute the scale.
_OFFSET = 0.1
# The parameter of PyTorch's bicubic filter without antialiasing.
_SHARPNESS = -0.75


def fit(variables: Any, network: Network, image_shape: tuple[int, ...], way: str = WAYS[0]) -> Any:
    """Returns a transformer's weights with position embeddings for images of this size.

    Position embeddings are resampled by the network's attribute `resampling`: "cubic", bicubically
    with antialiasing; "sharp", by `way`; "linear", bilinearly with antialiasing, but in timm
    bicubically; "cropped", bilinearly without antialiasing to a square with the longer side of the
    image, of which the first rows and columns are used; "aligned", in the same way but with the
    corners of both squares aligned. The embeddings of tokens other than patches are not changed.

    Args:
      variables: {"params": ...}; weights of other networks are returned unchanged.
      network: a network of `networks.create`.
      image_shape: (H, W, channels).
      way: the library whose resampling is followed, one of WAYS. It matters for DINOv2 without
        registers: "authors", bicubically without antialiasing and with 0.1 added to the numbers of
        patches; "transformers", without antialiasing; "timm", with antialiasing; and for TIPSv2,
        where only "timm" is bicubic; and for C-RADIO, whose corners "transformers" never aligns.
        Other networks are resampled bicubically with antialiasing, as in timm and, for DINOv2 with
        registers, by its authors and transformers. "auto" is "authors".
    """
    params = variables.get("params") if isinstance(variables, Mapping) else None
    positions = params.get(NAME) if isinstance(params, Mapping) else None
    patch = getattr(network, "patch", 0)
    if getattr(positions, "ndim", 0) != 3 or not patch:
        return variables
    grid = tuple(side // patch for side in image_shape[:2])
    count = summarize(network, tuple(image_shape)).variables["params"][NAME].shape[1]
    others = count - math.prod(grid)
    side = math.isqrt(max(positions.shape[1] - others, 0))
    if positions.shape[1] == count or side == 0 or side**2 + others != positions.shape[1]:
        return variables
    rest, patches = jnp.split(jnp.asarray(positions, jnp.float32), [others], axis=1)
    patches = patches.reshape(side, side, -1)
    resampling = getattr(network, "resampling", "cubic")
    if resampling in ("sharp", "linear") and way == "timm":
        resampling = "cubic"
    if resampling in ("cubic", "linear"):
        shape = (*grid, patches.shape[-1])
        patches = jax.image.resize(patches, shape, resampling, antialias=True)
    else:
        if resampling == "sharp":
            offset = 0.0 if way == "transformers" else _OFFSET
            rows, columns = (_bicubic(side, size, (size + offset) / side) for size in grid)
        else:
            aligned = resampling == "aligned" and way != "transformers"
            square = _bilinear(side, max(grid), aligned=aligned)
            rows, columns = (square[:size] for size in grid)
        patches = jnp.einsum("hi,wj,ijc->hwc", rows, columns, patches, precision="highest")
    patches = patches.reshape(1, -1, patches.shape[-1])
    fitted = jnp.concatenate([rest, patches], axis=1)
    return {**variables, "params": {**params, NAME: fitted}}


def _bicubic(source: int, target: int, scale: float) -> np.ndarray:
    """Returns the matrix [target, source] of PyTorch's bicubic resampling of an axis by a scale."""
    return _filtered(source, (np.arange(target) + 0.5) / scale - 0.5, _cubic, (-1, 0, 1, 2))


def _bilinear(source: int, target: int, *, aligned: bool) -> np.ndarray:
    """Returns the matrix [target, source] of a linear resampling without antialiasing.

    Args:
      source: number of values.
      target: number of values of the result.
      aligned: whether the first and last values are kept (`align_corners` in PyTorch).
    """
    if aligned:
        positions = np.arange(target) * (source - 1) / max(target - 1, 1)
    else:
        positions = (np.arange(target) + 0.5) * source / target - 0.5
    return _filtered(source, positions, lambda distance: np.maximum(1 - distance, 0), (0, 1))


def _filtered(
    source: int, positions: np.ndarray, weight: Callable, taps: tuple[int, ...]
) -> np.ndarray:
    """Returns the matrix [target, source] of a filter at positions [target] of an axis."""
    target, first = len(positions), np.floor(positions).astype(int)
    matrix = np.zeros((target, source), np.float32)
    for tap in taps:
        index = np.clip(first + tap, 0, source - 1)
        weights = weight(np.abs(positions - first - tap)).astype(np.float32)
        np.add.at(matrix, (np.arange(target), index), weights)
    return matrix


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Returns the cubic convolution filter (Keys, 1981) at distances from 0 to 2."""
    a = _SHARPNESS
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, far)
