"""Conversion between entry names of rrd_jax (native) and of another library (foreign)."""

from collections.abc import Iterable, Mapping
from typing import Any

LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


class Renaming:
    """A mapping between the native entry names of a network and those of another library.

    In both directions, a prefix such as `module.` is kept, and an unknown name is returned
    unchanged.
    """

    def __init__(
        self,
        pairs: Iterable[tuple[str, str]],
        *,
        former: Iterable[tuple[str, str]] = (),
        ranks: Mapping[str, int] | None = None,
    ):
        """Initializes the mapping.

        Args:
          pairs: (native, foreign) names of modules or entries; each name occurs once.
          former: pairs with the foreign names in older files of the library; only read.
          ranks: end of a foreign name -> the rank of the foreign array, if the native rank differs;
            the ranks differ in trailing axes of length 1.
        """
        pairs = list(pairs)
        self._foreign_names = dict(pairs)
        self._native_names = {foreign: native for native, foreign in [*pairs, *former]}
        self._ranks = ranks or {}

    def to_native(self, entry: str) -> str:
        """Returns the native name of a foreign entry."""
        return _renamed(entry, self._native_names)

    def to_foreign(self, entry: str) -> str:
        """Returns the foreign name of a native entry."""
        return _renamed(entry, self._foreign_names)

    def shape(self, entry: str, native: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the foreign shape of a foreign entry with the native shape `native`."""
        ranks = (rank for end, rank in self._ranks.items() if f".{entry}".endswith(f".{end}"))
        rank = next(ranks, len(native))
        return with_rank(native, rank)

    def write(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a native state dict with foreign names and shapes, for strict loading."""
        written = {}
        for entry, value in state_dict.items():
            name = self.to_foreign(entry)
            shape = tuple(getattr(value, "shape", ()))
            foreign_shape = self.shape(name, shape)
            written[name] = value if foreign_shape == shape else value.reshape(foreign_shape)
        return written


def with_rank(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """Returns a shape with `rank` axes: adds or removes trailing axes of length 1, if possible."""
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
