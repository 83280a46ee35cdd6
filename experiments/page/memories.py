"""Memories of objectives: when they are full, and how that changes the loss."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rrd_jax.objectives.parts.memory import SIZES


@dataclasses.dataclass(frozen=True)
class Memory:
    """The memory of an objective during a run.

    Attributes:
      name: the objective.
      rows: number of rows.
      full: number of epochs after which all rows were replaced.
    """

    name: str
    rows: int
    full: float


def of_run(config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[Memory]:
    """Returns the memories of a run that are filled later than at the end of the first epoch.

    Args:
      config: config fields by path.
      rows: the metrics of the run.
    """
    if not rows or not isinstance(step := rows[-1].get("step"), int):
        return []
    pushed = step / rows[-1]["epoch"] * config.get("train.batch_size", 0)
    if not pushed:
        return []
    memories = (Memory(name, size, size / pushed) for name, size in _sizes(config))
    return [memory for memory in memories if memory.full > 1]


def describe(memories: Sequence[Memory], epochs: int) -> str:
    """Returns sentences that explain the effect of memories on the loss; "" without memories."""
    sentences = []
    for memory in memories:
        size = f"The memory of {memory.name} ({memory.rows:,} rows)"
        effect = (
            "random rows are easy to tell apart from an image, and the loss of"
            f" {memory.name} can rise while embeddings of images replace them"
        )
        if memory.full > epochs:
            share = epochs / memory.full
            sentences.append(f"{size} is never full: the run replaces {share:.0%} of it; {effect}.")
        else:
            sentences.append(f"{size} is full after {memory.full:.3g} epochs; before, {effect}.")
    return " ".join(sentences)


def _sizes(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yields the objectives with a first-in, first-out memory, and its number of rows."""
    for path, value in config.items():
        section, _, option = path.rpartition(".")
        name = section.removeprefix("objectives.")
        is_queue = config.get(f"{section}.memory", "fifo") == "fifo"
        is_used = isinstance(value, int) and config.get(f"{section}.weight", 1)
        if section.startswith("objectives.") and option in SIZES and is_queue and is_used:
            yield name, value
