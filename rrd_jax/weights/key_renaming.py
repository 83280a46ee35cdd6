"""Names that another library has for the entries of a network, and the shapes of these."""

from collections.abc import Iterable, Mapping
from typing import Any

LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


class Renaming:
    """Two names for each entry of a network: ours, as a state dict has it, and a library's.

    Both ways, what stands before a name, such as `module.`, stays, and so does an entry that is not
    known.
    """

    def __init__(
        self,
        pairs: Iterable[tuple[str, str]],
        *,
        former: Iterable[tuple[str, str]] = (),
        ranks: Mapping[str, int] | None = None,
    ):
        """Of a network.

        Args:
          pairs: of modules, or of whole entries: (ours, theirs), each name once on its side.
          former: the same with names that older files of the library have; only read.
          ranks: the number of axes of their arrays, by the end of their names, where it is not the
            number of ours; the axes that are more or fewer are of length one, and are the last.
        """
        pairs = list(pairs)
        self._theirs = dict(pairs)
        self._ours = {theirs: ours for ours, theirs in [*pairs, *former]}
        self._ranks = ranks or {}

    def to_ours(self, entry: str) -> str:
        """Our name of an entry with their name."""
        return _renamed(entry, self._ours)

    def to_theirs(self, entry: str) -> str:
        """Their name of an entry with ours."""
        return _renamed(entry, self._theirs)

    def shape(self, entry: str, ours: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of an entry, by their name, of which ours is this."""
        ranks = (rank for end, rank in self._ranks.items() if f".{entry}".endswith(f".{end}"))
        rank = next(ranks, len(ours))
        return with_rank(ours, rank)

    def write(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """A state dict with our names as theirs, which loads strictly there."""
        written = {}
        for entry, value in state_dict.items():
            name = self.to_theirs(entry)
            shape = tuple(getattr(value, "shape", ()))
            wanted = self.shape(name, shape)
            written[name] = value if wanted == shape else value.reshape(wanted)
        return written


def with_rank(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """A shape with so many axes; last ones of length one are added, or left out where they are."""
    if any(size != 1 for size in shape[rank:]):
        return shape
    return (*shape, *(1,) * (rank - len(shape)))[:rank]


def _renamed(entry: str, names: Mapping[str, str]) -> str:
    parts = entry.split(".")
    for i in range(len(parts)):
        before, name = parts[:i], ".".join(parts[i:])
        if name in names:
            return ".".join([*before, names[name]])
        module, _, leaf = name.rpartition(".")
        if leaf in LEAVES and module in names:
            return ".".join([*before, names[module], leaf])
    return entry
