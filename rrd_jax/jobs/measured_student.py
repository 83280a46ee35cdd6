"""Parts of the measurements of a student during its training."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rrd_jax import errors, networks, parallel
from rrd_jax.evaluation import predictions
from rrd_jax.training.recipe import Recipe


def stopping(stop: Callable[[], bool]) -> Callable[[float], None]:
    """Returns a function, called after each batch, that raises a StoppedError if `stop` is True."""

    def after(share: float) -> None:
        del share
        if stop():
            raise predictions.StoppedError

    return after


def prefixed(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    """Returns metrics whose names start with a prefix, such as "teacher"."""
    return {f"{prefix}_{name}": value for name, value in metrics.items()}


def random_variables(
    recipe: Recipe, image_shape: tuple[int, int, int], mesh: jax.sharding.Mesh
) -> Any:
    """Initializes the student of a recipe with random weights, replicated."""

    def init():
        return networks.init(recipe.student, jax.random.key(recipe.training.seed), image_shape)

    return jax.jit(init, out_shardings=parallel.replicated(mesh))()


def check_finite(features: np.ndarray, name: str, label: str) -> None:
    """Raises a DivergedError for features [N, D] of a student that are not finite.

    Args:
      features: the features.
      name: their name in messages, such as "embeddings".
      label: label of the run.
    """
    try:
        predictions.check_finite(features, f"the student's {name}")
    except errors.InputError as error:
        raise errors.DivergedError(f"[{label}] {error}, and optimizer.learning_rate") from error
