"""Checks that no array of a run exceeds the machine's memory.

The sizes are lower bounds, so a run that passes may still run out of memory. `preflight.check`
estimates the memory of networks and objectives once their shapes are known.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from rrd_jax import errors
from rrd_jax.objectives.parts import memory
from rrd_jax.settings import Values


class _Array(NamedTuple):
    """An array that a run needs: the lengths of its axes by name, and the bytes per number."""

    axes: dict[str, int]
    item: int = 4

    @property
    def bytes(self) -> int:
        """The size of the array in bytes."""
        return math.prod(self.axes.values()) * self.item

    def __str__(self) -> str:
        factors = " x ".join(f"{name} {size}" for name, size in self.axes.items())
        return f"{factors} x {self.item} byte{'s' * (self.item > 1)}"


def check(values: Values, memory: int) -> None:
    """Raises an InputError for the first array that exceeds the memory.

    Args:
      values: checked values.
      memory: total memory of all hosts and devices of the run, in bytes.
    """
    for array in (*_image_arrays(values), *_objective_arrays(values)):
        if array.bytes > memory:
            raise errors.InputError(
                f"{array} = {readable(array.bytes)}, but the run has only {readable(memory)} of"
                " memory; reduce one of these fields"
            )


def readable(size: float) -> str:
    """Returns a number of bytes as text, such as 24.5 GB."""
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} EB"


def _image_arrays(values: Values) -> Iterator[_Array]:
    data, train = values["data"], values["train"]
    pixels = {"data.image_size": data["image_size"], "width": data["image_size"]}
    channels = {"channels": len(data["mean"])}
    part = train["batch_size"] // train["accumulate"]
    yield _Array({"train.batch_size": train["batch_size"], **pixels, **channels}, item=1)
    yield _Array({"train.eval_batch_size": train["eval_batch_size"], **pixels, **channels})
    yield _Array({"images": part, **pixels, **channels})
    if data["mock_examples"]:
        yield _Array({"data.mock_examples": data["mock_examples"], "numbers": 1}, item=64)
    if data["augment"] == "crop_flip":
        side = data["image_size"] + 2 * data["pad"]
        yield _Array({"images": part, "padded height": side, "width": side, **channels}, item=1)


def _objective_arrays(values: Values) -> Iterator[_Array]:
    part = values["train.batch_size"] // values["train.accumulate"]
    for name, options in values["objectives"].items():
        sizes = {option: size for option, size in options.items() if _is_size(size)}
        paths = {option: f"objectives.{name}.{option}" for option in sizes}
        dim = sizes.get("dim", 1)
        for option in sizes:
            # A row of a memory has `dim` numbers, a row of patches as many as a patch has.
            if option in memory.SIZES:
                numbers = {} if option == "patch_queue_size" else {"dim": dim}
                yield _Array({paths[option]: sizes[option], **numbers, "checkpoint copies": 2})
        if "dim" in sizes:
            yield _Array({paths["dim"]: dim, "images": part})


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
