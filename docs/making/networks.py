"""The networks as a page: what `python -m rrd_jax.networks` prints, and where else they are."""

from collections.abc import Iterable, Sequence

from rrd_jax import networks
from rrd_jax.convert import published
from rrd_jax.networks.__main__ import table


def page(patterns: Sequence[str] = ("*",)) -> str:
    """Networks for images of about 32 pixels, and for those of ImageNet.

    Args:
      patterns: of the names that the tables have, as --names of the command.
    """
    header, rows = table(patterns)
    rows = [(*row[0].split(" = ")[:1], *row[1:], *_elsewhere(row[0])) for row in rows]
    header = (*header, *published.LIBRARIES, "file")
    small = [row for row in rows if row[0] in networks.CIFAR]
    large = [row for row in rows if row[0] in networks.IMAGENET]
    return "\n\n".join(
        [
            "## For images of about 32 pixels",
            "Figures are for 100 classes and RGB.",
            _table(header, small),
            "## For images of ImageNet",
            "Figures are for 1 000 classes and RGB.",
            _table(header, large),
        ]
    )


def _elsewhere(names: str) -> Iterable[str]:
    """What torchvision and timm call the network, and the file that has it here."""
    name = names.split(" = ")[0]
    for library in published.LIBRARIES:
        theirs = getattr(published.of(name), library)
        yield f"`{theirs}`" if theirs else "-"
    made = networks.factory(name)
    module = getattr(made, "func", made).__module__
    yield f"`{module.rpartition('.')[2]}.py`"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header)]
    lines += [[f"`{name}`", *cells] for name, *cells in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
