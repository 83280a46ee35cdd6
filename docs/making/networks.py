"""Generates the list of networks, with their equivalents in torchvision and timm."""

import itertools
from collections.abc import Iterable, Sequence

from rrd_jax import networks
from rrd_jax.networks.__main__ import table
from rrd_jax.weights import published

_HEADER = ("name", "parameters, M", "MACs, M", "maps", "embedding", "pixels", "equivalent in")


def page(patterns: Sequence[str] = ("*",)) -> str:
    """Returns tables of the networks for images of about 32 pixels and for ImageNet.

    Args:
      patterns: glob patterns of the names in the tables, as `--names` of `rrd_jax.networks`.
    """
    rows = [_row(row) for row in table(patterns)[1]]
    small = [row for row in rows if row[0] in networks.CIFAR]
    large = [row for row in rows if row[0] in networks.IMAGENET]
    return "\n\n".join(
        [
            "## Networks for images of about 32 pixels",
            "Figures are for 100 classes and RGB.",
            _table(small),
            "## Networks for ImageNet",
            "Figures are for 1 000 classes and RGB.",
            _table(large),
        ]
    )


def _row(row: Sequence[str]) -> tuple[str, ...]:
    names, parameters, macs, maps, embedding, size = row
    name = names.split(" = ")[0]
    counted = ((len(list(same)), tap) for tap, same in itertools.groupby(maps.split()))
    maps = " ".join(f"{count}x{tap}" if count > 1 else tap for count, tap in counted)
    aliases = {library: getattr(published.lookup(name), library) for library in published.LIBRARIES}
    elsewhere = (
        library if alias == name else f"{library}: `{alias}`"
        for library, alias in aliases.items()
        if alias
    )
    costs = (f"{int(count.replace(',', '')) / 1e6:,.2f}" for count in (parameters, macs))
    return name, *costs, maps, embedding, size.split("x")[0], ", ".join(elsewhere) or "-"


def _table(rows: Iterable[Sequence[str]]) -> str:
    lines = [_HEADER, ["---"] * len(_HEADER)]
    lines += [[f"`{name}`", *cells] for name, *cells in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
