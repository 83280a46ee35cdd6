"""The best checkpoint of a run, by the criterion of `rrd_jax.training.criterion`."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rrd_jax.checkpoints import storage
from rrd_jax.training import criterion


def score(result: Mapping[str, Any]) -> float | None:
    """Returns the value of the criterion in an epoch's result; None if it was not measured."""
    return criterion.of_result(result)[1]


def scores(folder: pathlib.Path) -> dict[int, float]:
    """Returns the scores of all checkpoints that were written at the end of an epoch, by step."""
    by_step = {}
    for step in storage.steps(folder):
        try:
            meta, _ = storage.read_json(folder, step)
            # Checkpoints within an epoch contain the sums of an unfinished epoch.
            if not meta.get("result") or meta["sums"]:
                continue
            if (value := score(meta["result"])) is not None:
                by_step[step] = value
        # The JSON is damaged.
        except (AttributeError, KeyError, OSError, TypeError, ValueError):
            continue
    return by_step


def highest(result: Mapping[str, Any]) -> float | None:
    """Returns the best score of a run, given the result of its latest epoch; None if unknown."""
    return criterion.of_result(result)[2]


def describe(score: float, result: Mapping[str, Any]) -> str:
    """Describes a score, given the result of any epoch of the run."""
    return f"{criterion.describe(criterion.of_result(result)[0])} {score:.2f} %"


def caveat(result: Mapping[str, Any]) -> str:
    """Returns a clause about a best checkpoint that the test images chose; "" for others."""
    if criterion.of_result(result)[0] != "test/top1":
        return ""
    return (
        ", which is optimistic, because the same test images chose the checkpoint; data.val_split"
        " holds out training images for the choice"
    )


def best(scored: dict[int, float]) -> int | None:
    """Returns the first step with the highest score; None if there are no scores."""
    return max(scored, key=lambda step: (scored[step], -step), default=None)


class KeepBest:
    """An Orbax policy that preserves the best checkpoint, including after a restart.

    Orbax's own policy loses the scores of earlier processes.

    Args:
      folder: folder of the checkpoints.
    """

    def __init__(self, folder: pathlib.Path):
        self._scores = scores(folder)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Returns a list with True for the best checkpoint and False for the other checkpoints."""
        del context
        by_step = self._scores | {c.step: c.metrics["score"] for c in checkpoints if c.metrics}
        step = best({c.step: by_step[c.step] for c in checkpoints if c.step in by_step})
        return [c.step == step for c in checkpoints]
