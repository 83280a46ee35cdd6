"""Styles of levels: color, dash and mark, consistent on a page."""

import dataclasses
from collections.abc import Iterable

# The palette of Okabe and Ito without yellow, which is invisible on white; page.css has lighter
# variants for dark pages. The baseline is gray.
COLORS = {
    **{f"--c{i}": color for i, color in enumerate(
        ("#0072b2", "#d55e00", "#009e73", "#c0649a", "#d99000", "#3fa3dd")
    )},
    **{"--base": "#6b7078", "--ink": "#1c1e21", "--soft": "#5d636c", "--line": "#e3e0d9"},
    **{"--paper": "#ffffff", "--faint": "#f3f1ec"},
}  # fmt: skip
_DASHES = ((), (6, 3), (2, 2), (8, 3, 2, 3))
# The names of marks in Vega, and their outlines in a box of 10.
_MARKS = (
    ("square", "M1.5 1.5H8.5V8.5H1.5Z"),
    ("triangle-up", "M5 .8L9.3 8.6H.7Z"),
    ("diamond", "M5 0L10 5L5 10L0 5Z"),
    ("triangle-down", "M5 9.2L9.3 1.4H.7Z"),
    ("cross", "M3.4 .6H6.6V3.4H9.4V6.6H6.6V9.4H3.4V6.6H.6V3.4H3.4Z"),
    ("triangle-right", "M9.2 5L1.4 9.3V.7Z"),
)
_CIRCLE = ("circle", "M1 5A4 4 0 1 1 9 5A4 4 0 1 1 1 5Z")


@dataclasses.dataclass(frozen=True)
class Style:
    """The style of a level.

    Attributes:
      color: a CSS variable of the page, such as "var(--c0)".
      dash: lengths of strokes and gaps; () for a solid line.
      shape: the name of the mark in Vega.
      outline: the mark as an SVG path in a box of 10.
    """

    color: str
    dash: tuple[int, ...]
    shape: str
    outline: str


TEACHER = Style("var(--ink)", (), *_CIRCLE)


def of_levels(levels: Iterable[str], baseline: str = "") -> dict[str, Style]:
    """Returns a style for each level, by its position; the first 24 styles are distinct."""
    styles, i = {}, 0
    for level in levels:
        if level == baseline:
            styles[level] = Style("var(--base)", (1, 2), *_CIRCLE)
            continue
        turn, color = divmod(i, 6)
        dash = _DASHES[turn % len(_DASHES)]
        styles[level] = Style(f"var(--c{color})", dash, *_MARKS[(i + turn) % len(_MARKS)])
        i += 1
    return styles
