"""Sizes that no memory of the machine can hold, with the arithmetic.

These are lower bounds of what a run needs: what passes can still be too much. `preflight.check`
compares what networks and objectives need once their shapes are known.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from rrd_jax import errors
from rrd_jax.settings import Values

_ROWS = ("queue_size", "negatives")  # options that are a memory's rows of `dim` numbers


class _Need(NamedTuple):
    """An array that a run needs: what its axes are called, their lengths, bytes of a number."""

    axes: dict[str, int]
    item: int = 4

    @property
    def bytes(self) -> int:
        """Of the array."""
        return math.prod(self.axes.values()) * self.item

    def __str__(self) -> str:
        factors = " x ".join(f"{name} {size}" for name, size in self.axes.items())
        return f"{factors} x {self.item} byte{'s' * (self.item > 1)}"


def check(values: Values, memory: int) -> None:
    """Raises an InputError for fields that ask for an array beyond the memory.

    Args:
      values: checked values.
      memory: bytes of all hosts and devices of the run.
    """
    for need in (*_of_images(values), *_of_objectives(values)):
        if need.bytes > memory:
            raise errors.InputError(
                f"{need} = {readable(need.bytes)}, but there are {readable(memory)} of memory"
            )


def readable(size: float) -> str:
    """Bytes as a short text, such as 24.5 GB."""
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} EB"


def _of_images(values: Values) -> Iterator[_Need]:
    data, train = values["data"], values["train"]
    pixels = {"data.image_size": data["image_size"], "as wide": data["image_size"]}
    channels = {"channels": len(data["mean"])}
    part = train["batch_size"] // train["accumulate"]
    yield _Need({"train.batch_size": train["batch_size"], **pixels, **channels}, item=1)
    yield _Need({"train.eval_batch_size": train["eval_batch_size"], **pixels, **channels})
    yield _Need({"images": part, **pixels, **channels})
    if data["mock_examples"]:
        yield _Need({"data.mock_examples": data["mock_examples"], "numbers": 1}, item=64)
    if data["augment"] == "crop_flip":
        side = data["image_size"] + 2 * data["pad"]
        yield _Need({"images": part, "padded": side, "as wide": side, **channels}, item=1)


def _of_objectives(values: Values) -> Iterator[_Need]:
    part = values["train.batch_size"] // values["train.accumulate"]
    for name, options in values["objectives"].items():
        sizes = {option: size for option, size in options.items() if _is_size(size)}
        paths = {option: f"objectives.{name}.{option}" for option in sizes}
        dim = sizes.get("dim", 1)
        for option in sizes:
            if option in _ROWS:
                yield _Need({paths[option]: sizes[option], "dim": dim, "copies for checkpoints": 2})
        if "dim" in sizes:
            yield _Need({paths["dim"]: dim, "images": part})


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
