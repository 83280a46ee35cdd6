"""What a GPU is meant to reach; shown beside its figures, and nowhere else."""

import statistics
from typing import Any

from experiments.speed_rows import CACHED, LOSS, OURS

_RRD_SHARE = 0.03  # of a step of ce+kd with a teacher that is remembered


def of_row(group: dict[str, Any], case: str, ratio: float | None) -> str:
    """A row's targets, and whether each is met; "-" where there is none.

    Targets are of bfloat16 and the published batch: CIFAR's 64 images, ImageNet's on an H100.

    Args:
      group: `Group.figures`.
      case: of ours.
      ratio: ours / the fastest PyTorch of the same case; None without peers.
    """
    seconds = group["seconds"].get(f"{OURS}: {case}")
    if group["precision"] != "bfloat16" or not seconds:
        return "-"
    median, batch_size = statistics.median(seconds), group["task"]["batch_size"]
    wanted = []
    if group["size"] == "cifar" and batch_size == 64:
        limit = 0.6e-3 if case.endswith(CACHED) else 1.2e-3
        wanted.append((f"<= {1000 * limit:.1f} ms", median <= limit))
        if not case.endswith(CACHED) and ratio is not None:
            wanted.append((">= 1.5 of PyTorch", ratio >= 1.5))
    if group["size"] == "imagenet" and "H100" in group["ready"][OURS]["device"]:
        wanted.append((">= 15 000 images/s", batch_size / median >= 15_000))
    return "; ".join(f"{text}: {_met(met)}" for text, met in wanted) or "-"


def of_rrd(added: float) -> str:
    """The target for what RRD adds to a step, as a share, and whether it is met."""
    return f"<= {100 * _RRD_SHARE:.0f} %: {_met(added <= _RRD_SHARE)}"


def applies_to_rrd(group: dict[str, Any]) -> bool:
    """Whether a group has the row that the target for RRD is of."""
    measured = f"{OURS}: {LOSS}{CACHED}" in group["seconds"]
    return measured and group["precision"] == "bfloat16" and group["task"]["batch_size"] == 64


def _met(met: bool) -> str:
    return "met" if met else "not met"
