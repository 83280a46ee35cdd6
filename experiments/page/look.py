"""How levels are told apart: a colour, a dash and a mark for each, the same on the whole page."""

import dataclasses
from collections.abc import Iterable

# Okabe and Ito's palette without yellow, which vanishes on white; page.css has lighter ones for
# dark pages. The baseline is grey.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#c0649a", "#d99000", "#3fa3dd")
BASELINE = "#6b7078"
_DASHES = ((), (6, 3), (2, 2), (8, 3, 2, 3))
# As Vega names a mark, as matplotlib does, and its outline in a box of 10.
_MARKS = (
    ("square", "s", "M1.5 1.5H8.5V8.5H1.5Z"),
    ("triangle-up", "^", "M5 .8L9.3 8.6H.7Z"),
    ("diamond", "D", "M5 0L10 5L5 10L0 5Z"),
    ("triangle-down", "v", "M5 9.2L9.3 1.4H.7Z"),
    ("cross", "P", "M3.4 .6H6.6V3.4H9.4V6.6H6.6V9.4H3.4V6.6H.6V3.4H3.4Z"),
    ("triangle-right", ">", "M9.2 5L1.4 9.3V.7Z"),
)
CIRCLE = ("circle", "o", "M1 5A4 4 0 1 1 9 5A4 4 0 1 1 1 5Z")


@dataclasses.dataclass(frozen=True)
class Style:
    """Of a level.

    Attributes:
      variable: the colour, as a variable of the page.
      colour: the same on paper.
      dash: lengths of strokes and gaps; () for a whole line.
      shape: of a point, as Vega names it.
      marker: the same, as matplotlib names it.
      outline: the same, as a path of SVG in a box of 10.
    """

    variable: str
    colour: str
    dash: tuple[int, ...]
    shape: str
    marker: str
    outline: str


def styles(levels: Iterable[str], baseline: str = "") -> dict[str, Style]:
    """Of each level, by its place among the others; no two are alike among the first 24."""
    found, i = {}, 0
    for level in levels:
        if level == baseline:
            found[level] = Style("var(--base)", BASELINE, (1, 2), *CIRCLE)
            continue
        turn = i // len(COLOURS)
        found[level] = Style(
            f"var(--c{i % len(COLOURS)})",
            COLOURS[i % len(COLOURS)],
            _DASHES[turn % len(_DASHES)],
            *_MARKS[(i + turn) % len(_MARKS)],
        )
        i += 1
    return found
