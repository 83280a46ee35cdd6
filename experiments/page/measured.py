"""Figures of what was measured of a grid's runs beyond their metrics."""

from collections.abc import Iterator

from experiments.page.parts import Part
from experiments.page.results import Results


def parts(of: Results, name: str) -> Iterator[Part]:
    """In their order."""
    return iter(())
