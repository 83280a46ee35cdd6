"""Split expressions as TFDS reads them, such as train[:90%], for sources that are none of TFDS."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

_PART = re.compile(r"(?P<name>[\w-]+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


class Slice(NamedTuple):
    """A part of a split.

    Attributes:
      name: of the split, such as "train".
      start: the first example, such as "10", "-10" or "90%"; "" for the beginning.
      stop: the one after the last; "" for the end.
    """

    name: str
    start: str
    stop: str

    def rows(self, count: int) -> range:
        """The places of its examples in a split of `count`.

        Raises:
          ValueError: a number or percentage beyond the split.
        """
        start = _place(self.start, count) if self.start else 0
        stop = _place(self.stop, count) if self.stop else count
        return range(start, stop)


def parse(expression: str) -> list[Slice]:
    """The parts of a split expression, such as train[:90%] or train+test[-100:].

    Raises:
      ValueError: it cannot be read.
    """
    slices = []
    for part in expression.split("+"):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise ValueError("write a split such as train, train[:1000] or train[90%:]")
        slices.append(Slice(match["name"], match["start"] or "", match["stop"] or ""))
    return slices


def overlap(some: Iterable[tuple[Any, range]], others: Iterable[tuple[Any, range]]) -> int:
    """How many examples are in both of two lists of parts; a part is of a source, by its places."""
    others = list(others)
    return sum(
        max(0, min(a.stop, b.stop) - max(a.start, b.start))
        for source, a in some
        for other, b in others
        if source == other
    )


def _place(text: str, count: int) -> int:
    """A boundary as a place in the split; percentages are rounded to the closest."""
    number = int(text.removesuffix("%"))
    place = round(number * count / 100.0) if text.endswith("%") else number
    if abs(place) > count:
        raise ValueError(f"'{text}' is beyond its {count} examples")
    return place + count if place < 0 else place
