"""How levels are told apart: a colour, a dash and a mark for each, the same on the whole page."""

import dataclasses
from collections.abc import Iterable

# Okabe and Ito's palette without yellow, which vanishes on white; page.css has lighter ones for
# dark pages. The baseline is grey.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#c0649a", "#d99000", "#3fa3dd")
BASELINE = "#6b7078"
_DASHES = ((), (6, 3), (2, 2), (8, 3, 2, 3))
_SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
_MARKERS = ("o", "s", "^", "D", "v", "P")  # the same, as matplotlib calls them


@dataclasses.dataclass(frozen=True)
class Style:
    """Of a level.

    Attributes:
      variable: the colour, as a variable of the page.
      colour: the same on paper.
      dash: lengths of strokes and gaps; () for a whole line.
      shape: of a point, as Vega names it.
      marker: the same, as matplotlib names it.
    """

    variable: str
    colour: str
    dash: tuple[int, ...]
    shape: str
    marker: str


def styles(levels: Iterable[str], baseline: str = "") -> dict[str, Style]:
    """Of each level, by its place among the others; no two are alike among the first 24."""
    found, i = {}, 0
    for level in levels:
        if level == baseline:
            found[level] = Style("var(--base)", BASELINE, (1, 2), "stroke", "|")
            continue
        turn = i // len(COLOURS)
        found[level] = Style(
            variable=f"var(--c{i % len(COLOURS)})",
            colour=COLOURS[i % len(COLOURS)],
            dash=_DASHES[(i + turn) % len(_DASHES)] if turn else (),
            shape=_SHAPES[(i + turn) % len(_SHAPES)],
            marker=_MARKERS[(i + turn) % len(_MARKERS)],
        )
        i += 1
    return found
