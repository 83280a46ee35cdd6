"""What a network predicts for every example of a split, and figures of that."""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rrd_jax import metrics, parallel

Predictions = dict[str, np.ndarray]


class StoppedError(Exception):
    """The predictions are not complete, because the run is to stop."""


def collect(
    predict: Callable,
    variables: Any,
    split: Any,
    batch_size: int,
    mesh: jax.sharding.Mesh,
    stop: Callable[[], bool] = lambda: False,
) -> Predictions:
    """`prediction`, `rank`, `loss` and `label` [N] of every example, each exactly once.

    Args:
      predict: compiled, of `program.build_predict`.
      variables: of its network.
      split: of a data set.
      batch_size: images at once, over all devices.
      mesh: the devices.
      stop: whether to break off; asked after each batch.

    Raises:
      StoppedError: `stop` said so.
    """
    parts, batch_size = [], math.ceil(batch_size / mesh.size) * mesh.size
    with contextlib.closing(split.test_batches(batch_size, parallel.part())) as batches:
        for batch in batches:
            batch = parallel.put_batch(mesh, batch)
            parts.append(predict(variables, batch["image"], batch["label"]))
            if stop():
                raise StoppedError
    names = ("prediction", "rank", "loss", "label")
    parts = jax.device_get(parts)
    return {name: np.concatenate([p[name] for p in parts])[: len(split)] for name in names}


def figures(predictions: Predictions, teacher: Predictions | None = None) -> dict[str, float]:
    """`top1` and `top5` in per cent, `loss` in nats, and `agreement` in per cent with a teacher."""
    result = {
        "top1": metrics.percent_equal(predictions["prediction"], predictions["label"]),
        "top5": 100.0 * float(np.mean(predictions["rank"] < 5)),
        "loss": float(np.mean(predictions["loss"], dtype=np.float64)),
    }
    if teacher is not None:
        result["agreement"] = metrics.percent_equal(
            predictions["prediction"], teacher["prediction"]
        )
    return result
