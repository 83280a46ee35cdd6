"""What is said of a data set before hours go into it, and kept beside the run."""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rrd_jax.data.source import Source

if TYPE_CHECKING:
    from rrd_jax.data.opened import Opened

_FEW = 500  # test images: below it, a top-1 of 90 % has a standard error above 1.3 points


@dataclasses.dataclass(frozen=True)
class Summary:
    """A data set in words and figures.

    Attributes:
      lines: for the console.
      warnings: what is doubtful.
      figures: JSON values.
    """

    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def of(source: Source, splits: "Opened") -> Summary:
    """What to say of the splits that are open, beside what whoever opened them says."""
    figures = {
        "version": splits.version,
        "classes": list(splits.class_names) or splits.num_classes,
        "images": {"train": len(splits.train), "test": len(splits.test)},
    }
    said, warnings = splits.summary, []
    if splits.shared:
        warnings.append(
            f"{splits.shared:,} examples are both in data.train_split '{source.train_split}' and in"
            f" data.test_split '{source.test_split}': the figures will be too good"
        )
    if source.use_labels and not source.mock_examples:
        warnings += _few(len(splits.test))
    return Summary(said.lines, (*said.warnings, *warnings), figures | said.figures)


def _few(images: int) -> list[str]:
    """A warning, or none: differences on a test split of so many images mean little."""
    if images >= _FEW:
        return []
    deviation = {share: 100 * math.sqrt(share * (1 - share) / images) for share in (0.5, 0.9)}
    return [
        f"{images:,} test images: a top-1 of 90 % has a standard error of {deviation[0.9]:.1f}"
        f" points, one of 50 % of {deviation[0.5]:.1f}; differences below about"
        f" {2 * deviation[0.9]:.0f} to {2 * deviation[0.5]:.0f} points mean nothing"
    ]
