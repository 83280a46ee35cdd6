"""The networks as a page: what `python -m rrd_jax.networks` prints, and where else they are."""

import itertools
from collections.abc import Iterable, Sequence

from rrd_jax import networks
from rrd_jax.networks.__main__ import table
from rrd_jax.weights import published

_HEADER = ("name", "parameters, M", "MACs, M", "maps", "embedding", "pixels", "the same in")


def page(patterns: Sequence[str] = ("*",)) -> str:
    """Networks for images of about 32 pixels, and for those of ImageNet.

    Args:
      patterns: of the names that the tables have, as --names of the command.
    """
    rows = [_row(row) for row in table(patterns)[1]]
    small = [row for row in rows if row[0] in networks.CIFAR]
    large = [row for row in rows if row[0] in networks.IMAGENET]
    return "\n\n".join(
        [
            "## For images of about 32 pixels",
            "Figures are for 100 classes and RGB.",
            _table(small),
            "## For images of ImageNet",
            "Figures are for 1 000 classes and RGB.",
            _table(large),
        ]
    )


def _row(row: Sequence[str]) -> tuple[str, ...]:
    names, parameters, macs, maps, embedding, size = row
    name = names.split(" = ")[0]
    counted = ((len(list(same)), tap) for tap, same in itertools.groupby(maps.split()))
    maps = " ".join(f"{count}x{tap}" if count > 1 else tap for count, tap in counted)
    theirs = {library: getattr(published.of(name), library) for library in published.LIBRARIES}
    elsewhere = (
        library if known == name else f"{library}: `{known}`"
        for library, known in theirs.items()
        if known
    )
    costs = (f"{int(count.replace(',', '')) / 1e6:,.2f}" for count in (parameters, macs))
    return name, *costs, maps, embedding, size.split("x")[0], ", ".join(elsewhere) or "-"


def _table(rows: Iterable[Sequence[str]]) -> str:
    lines = [_HEADER, ["---"] * len(_HEADER)]
    lines += [[f"`{name}`", *cells] for name, *cells in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
