"""Which checkpoint of a run is the best one: by its test top-1, as the sealed JSON has it."""

import pathlib
from collections.abc import Sequence
from typing import Any

from rrd_jax.checkpoints import storage


def scores(folder: pathlib.Path) -> dict[int, float]:
    """The test top-1 of each checkpoint that was written at the end of an epoch, by step."""
    found = {}
    for step in storage.steps(folder):
        try:
            meta, _ = storage.read_json(folder, step)
            if meta.get("result") and not meta["sums"]:  # inside an epoch there are sums
                found[step] = meta["result"]["top1"]
        except (AttributeError, KeyError, OSError, TypeError, ValueError):  # damaged
            continue
    return found


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
