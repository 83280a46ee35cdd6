"""Which checkpoint of a run is the best one, as the sealed JSON has it.

It has the highest test top-1; without labels the lowest loss of held-out images.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rrd_jax.checkpoints import storage


def score(result: Mapping[str, Any]) -> float | None:
    """Of the figures of an epoch: the test top-1, or else minus the loss; None where both lack."""
    if result["top1"] is not None:
        return result["top1"]
    return None if result.get("loss") is None else -result["loss"]


def scores(folder: pathlib.Path) -> dict[int, float]:
    """The score of each checkpoint that was written at the end of an epoch, by step."""
    found = {}
    for step in storage.steps(folder):
        try:
            meta, _ = storage.read_json(folder, step)
            if not meta.get("result") or meta["sums"]:  # inside an epoch there are sums
                continue
            if (value := score(meta["result"])) is not None:
                found[step] = value
        except (AttributeError, KeyError, OSError, TypeError, ValueError):  # damaged
            continue
    return found


def highest(result: Mapping[str, Any]) -> float:
    """The best score of a run so far, by the figures of its latest epoch."""
    top1 = result["best_top1"]
    return -result["best_loss"] if top1 is None else top1


def said(score: float, result: Mapping[str, Any]) -> str:
    """A score in words; `result` has the figures of an epoch of the same run."""
    if result["top1"] is None:
        return f"loss of held-out images {-score:.4f}"
    return f"test top-1 {score:.2f} %"


def best(scored: dict[int, float]) -> int | None:
    """The step of the highest score, of equal ones the first, as the reports say."""
    return max(scored, key=lambda step: (scored[step], -step), default=None)


class KeepBest:
    """Orbax's policy of keeping the best checkpoint, which a restart does not forget.

    Orbax remembers scores only as long as the program runs.

    Args:
      folder: of the checkpoints.
    """

    def __init__(self, folder: pathlib.Path):
        self._scores = scores(folder)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Which of the checkpoints to keep."""
        del context
        known = self._scores | {c.step: c.metrics["score"] for c in checkpoints if c.metrics}
        step = best({c.step: known[c.step] for c in checkpoints if c.step in known})
        return [c.step == step for c in checkpoints]
