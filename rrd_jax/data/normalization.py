"""The check of normalizations, wherever they come from."""

import dataclasses
from typing import Any

from rrd_jax import errors
from rrd_jax.settings import kinds

_KINDS = {"mean": kinds.MEAN, "std": kinds.STD}


def check(mean: Any = None, std: Any = None, channels: int = 0, place: str = "") -> None:
    """Checks the mean and the standard deviation of pixels in [0, 1].

    Args:
      mean: mean per channel, from 0 to 1; None if unknown.
      std: standard deviation per channel, from 1e-4 to 1; None if unknown.
      channels: number of channels; 0 for 1 or 3.
      place: the place of the numbers in messages, such as "data." or "config.json: ".

    Raises:
      InputError: the numbers are not one per channel, or out of range, such as those for pixels
        from 0 to 255.
    """
    for name, values in (("mean", mean), ("std", std)):
        kind = _KINDS[name]
        if channels:
            kind = dataclasses.replace(kind, lengths=(channels,))
        if values is not None and (problem := kind.problem(f"{place}{name}", values)):
            raise errors.InputError(
                f"{problem}; pass numbers for pixels in [0, 1], one per channel of the images"
            )
