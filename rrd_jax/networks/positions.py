"""Position embeddings of transformers, resampled for images of another size."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax.networks.contract import Network
from rrd_jax.networks.summary import summarize

NAME = "pos_embed"


def fit(variables: Any, network: Network, image_shape: tuple[int, ...]) -> Any:
    """Returns a transformer's weights with position embeddings for images of this size.

    Position embeddings are resampled as in timm: bicubically, with antialiasing. The embeddings of
    tokens other than patches are not changed.

    Args:
      variables: {"params": ...}; weights of other networks are returned unchanged.
      network: a network of `networks.create`.
      image_shape: (H, W, channels).
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
    shape = (*grid, patches.shape[-1])
    patches = jax.image.resize(patches, shape, "cubic", antialias=True).reshape(1, -1, shape[-1])
    fitted = jnp.concatenate([rest, patches], axis=1)
    return {**variables, "params": {**params, NAME: fitted}}
