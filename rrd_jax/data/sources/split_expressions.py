"""TFDS split expressions, such as train[:90%], for sources outside TFDS."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

_PART = re.compile(r"(?P<name>[\w-]+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


class Slice(NamedTuple):
    """A part of a split.

    Attributes:
      name: name of the split, such as "train".
      start: first example, such as "10", "-10" or "90%"; "" for the beginning.
      stop: end of the part (exclusive), in the same notation; "" for the end.
    """

    name: str
    start: str
    stop: str

    def rows(self, count: int) -> range:
        """Returns the indices of the part in a split of `count` examples.

        Raises:
          ValueError: a boundary is beyond the end of the split.
        """
        start = _boundary(self.start, count) if self.start else 0
        stop = _boundary(self.stop, count) if self.stop else count
        return range(start, stop)


def parse(expression: str) -> list[Slice]:
    """Returns the parts of a split expression, such as train[:90%] or train+test[-100:].

    Raises:
      ValueError: the expression is invalid.
    """
    slices = []
    for part in expression.split("+"):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise ValueError("write a split such as train, train[:1000] or train[90%:]")
        slices.append(Slice(match["name"], match["start"] or "", match["stop"] or ""))
    return slices


def overlap(parts: Iterable[tuple[Any, range]], others: Iterable[tuple[Any, range]]) -> int:
    """Returns the number of examples in both lists of (source, indices)."""
    others = list(others)
    return sum(
        max(0, min(a.stop, b.stop) - max(a.start, b.start))
        for source, a in parts
        for other, b in others
        if source == other
    )


def repeated(parts: Iterable[tuple[Any, range]]) -> int:
    """Returns the number of examples that several parts of a list have in common."""
    parts = list(parts)
    return sum(overlap([part], parts[i + 1 :]) for i, part in enumerate(parts))


def _boundary(text: str, count: int) -> int:
    """Returns a boundary as an index; percentages are rounded to the nearest index."""
    number = int(text.removesuffix("%"))
    place = round(number * count / 100.0) if text.endswith("%") else number
    if abs(place) > count:
        raise ValueError(f"'{text}' is beyond the {count} examples of the split")
    return place + count if place < 0 else place
