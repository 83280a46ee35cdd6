"""Position embeddings of transformers, for images of another size than they were made for."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax.networks.contract import Network
from rrd_jax.networks.summary import summarize

NAME = "pos_embed"


def fit(variables: Any, network: Network, image_shape: tuple[int, ...]) -> Any:
    """Weights of a transformer, with position embeddings for images of this size.

    They are resampled as timm does: bicubically, and averaged where there are fewer. Those of
    tokens that are no squares of the image stay as they are.

    Args:
      variables: {"params": ...}, as a file holds them; others than a transformer's as they are.
      network: of `networks.create`.
      image_shape: (H, W, channels).
    """
    params = variables.get("params") if isinstance(variables, Mapping) else None
    given = params.get(NAME) if isinstance(params, Mapping) else None
    patch = getattr(network, "patch", 0)
    if getattr(given, "ndim", 0) != 3 or not patch:
        return variables
    grid = tuple(side // patch for side in image_shape[:2])
    wanted = summarize(network, tuple(image_shape)).variables["params"][NAME].shape
    others = wanted[1] - math.prod(grid)
    side = math.isqrt(max(given.shape[1] - others, 0))
    if given.shape[1] == wanted[1] or side == 0 or side**2 + others != given.shape[1]:
        return variables
    rest, squares = jnp.split(jnp.asarray(given, jnp.float32), [others], axis=1)
    squares = squares.reshape(side, side, -1)
    shape = (*grid, squares.shape[-1])
    squares = jax.image.resize(squares, shape, "cubic", antialias=True).reshape(1, -1, shape[-1])
    fitted = jnp.concatenate([rest, squares], axis=1)
    return {**variables, "params": {**params, NAME: fitted}}
