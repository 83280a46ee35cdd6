"""The best checkpoint of a run: highest test top-1, or lowest held-out loss without labels."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rrd_jax.checkpoints import storage


def score(result: Mapping[str, Any]) -> float | None:
    """Returns the score of an epoch: test top-1, else minus the held-out loss, else None."""
    if result["top1"] is not None:
        return result["top1"]
    return None if result.get("loss") is None else -result["loss"]


def scores(folder: pathlib.Path) -> dict[int, float]:
    """Returns the score of each checkpoint written at the end of an epoch, by step."""
    found = {}
    for step in storage.steps(folder):
        try:
            meta, _ = storage.read_json(folder, step)
            if not meta.get("result") or meta["sums"]:  # Within an epoch, sums are not empty.
                continue
            if (value := score(meta["result"])) is not None:
                found[step] = value
        except (AttributeError, KeyError, OSError, TypeError, ValueError):  # damaged
            continue
    return found


def highest(result: Mapping[str, Any]) -> float:
    """Returns the best score of a run so far, given the result of its latest epoch."""
    top1 = result["best_top1"]
    return -result["best_loss"] if top1 is None else top1


def describe(score: float, result: Mapping[str, Any]) -> str:
    """Describes a score; `result` is of any epoch of the same run."""
    if result["top1"] is None:
        return f"loss of held-out images {-score:.4f}"
    return f"test top-1 {score:.2f} %"


def best(scored: dict[int, float]) -> int | None:
    """Returns the first step with the highest score; None if there are no scores."""
    return max(scored, key=lambda step: (scored[step], -step), default=None)


class KeepBest:
    """An Orbax policy that preserves the best checkpoint, also after a restart.

    Orbax itself loses the scores of earlier processes.

    Args:
      folder: of the checkpoints.
    """

    def __init__(self, folder: pathlib.Path):
        self._scores = scores(folder)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Returns, for each checkpoint, whether to preserve it."""
        del context
        known = self._scores | {c.step: c.metrics["score"] for c in checkpoints if c.metrics}
        step = best({c.step: known[c.step] for c in checkpoints if c.step in known})
        return [c.step == step for c in checkpoints]
