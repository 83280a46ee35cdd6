"""The criterion by which the best checkpoint of a run is chosen.

A criterion is the name of a metric in metrics.jsonl for which higher is better:

- with labels, the top-1 of the validation images (val/top1) or, without validation images, of the
  test images (test/top1);
- without labels, the share of nearest neighbors that student and teacher have in common on held-out
  images (val/neighbours_10 or proof/neighbours_10), or the agreement of their predictions if a
  network has no embedding. Neither depends on the objectives, whose losses change with the rows of
  their memories.
"""

from collections.abc import Mapping
from typing import Any

_METRICS = {
    "top1": "top-1",
    "neighbours_10": "shared 10-NN",
    "neighbours_1": "shared 1-NN",
    "agreement": "agreement with the teacher",
}
_NEIGHBORS = "neighbours_"
_IMAGES = {"val": "validation", "test": "test", "proof": "held-out"}


def create(metric: str, *, validated: bool) -> str:
    """Returns the criterion for a metric, such as "top1".

    Args:
      metric: name of the metric.
      validated: whether there are validation images.
    """
    if validated:
        return f"val/{metric}"
    return f"proof/{metric}" if metric.startswith(_NEIGHBORS) else f"test/{metric}"


def key(criterion: str) -> str:
    """Returns the name of a criterion's best value, such as "val_top1", or "top1" for test/top1."""
    split, _, metric = criterion.partition("/")
    return f"val_{metric}" if split == "val" else metric


def describe(criterion: str) -> str:
    """Returns a criterion in words, such as "validation top-1"."""
    split, _, metric = criterion.partition("/")
    return f"{_IMAGES.get(split, split)} {_METRICS.get(metric, metric)}"


def compares_embeddings(criterion: str) -> bool:
    """Returns True for a criterion that compares embeddings of student and teacher."""
    return criterion.partition("/")[2].startswith(_NEIGHBORS)


def images(criterion: str) -> str:
    """Returns the kind of images of a criterion: "validation", "test" or "held-out"."""
    return _IMAGES.get(criterion.partition("/")[0], "held-out")


def of_result(result: Mapping[str, Any]) -> tuple[str, float | None, float | None]:
    """Returns the criterion of a run's result, its value after the epoch, and its best value.

    Results of version 0.2.0 name no criterion: with labels it was the test top-1. Without labels it
    was the held-out loss, which does not compare epochs; the shared neighbors replace it if they
    were measured, and their best value is unknown.

    Args:
      result: a Result as JSON.
    """
    if result.get("best_by"):
        return result["best_by"], result.get("score"), result.get("best_score")
    if result["top1"] is not None:
        return "test/top1", result["top1"], result["best_top1"]
    name = "neighbours_10"
    return f"proof/{name}", (result.get("proof") or {}).get(name), None
