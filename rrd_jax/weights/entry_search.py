"""Finds a network's entries in what a file holds, under whatever keys and prefixes.

A training script wraps a state dict (`{"model": ..., "epoch": ...}`), a module its entries
(`module.conv1.weight`). Both are treated alike: what a file holds is laid out flat, keys joined by
dots, and a place is where the entries of a network stand with the same words before them.
"""

import collections
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rrd_jax import errors
from rrd_jax.weights import (
    entry_layouts,
    entry_templates,
    entry_values,
    foreign_layouts,
    published,
)
from rrd_jax.weights.entry_templates import Shape

_DEPTH = 12  # of dicts within dicts; scripts need three
# What batch norms and averages count beside the weights.
_COUNTERS = ("num_batches_tracked", "n_averaged")
_AVERAGES = {"ema", "swa", "averaged", "average", "avg"}
# Where a file holds several averages: the order in which timm looks for them.
_TIMM = ("state_dict_ema", "model_ema")
# Parts that wrappers put into names: torch.compile, DataParallel, FSDP, checkpointing.
_WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


class MisfitError(ValueError):
    """Weights cannot be taken from a file; the message is a predicate of the file."""


class Flat(NamedTuple):
    """The content of a file, laid out flat.

    Attributes:
      arrays: arrays by name.
      homes: the id of the dict that each array stands in, by name.
      others: types of values that are no arrays, by name.
    """

    arrays: dict[str, Any]
    homes: dict[str, int]
    others: dict[str, str]


class Place(NamedTuple):
    """The entries that stand behind one key of a file.

    Attributes:
      key: prefix of their names, "" for none.
      entries: arrays by the names that the network has for them.
    """

    key: str
    entries: dict[str, Any]

    @property
    def shapes(self) -> dict[str, Shape]:
        """Returns PyTorch's shape of each entry."""
        return {name: tuple(value.shape) for name, value in self.entries.items()}

    def is_of(self, name: str) -> bool:
        """Returns True if these are a network's entries, all of them and no others."""
        return self.shapes == entry_templates.expected_shapes(name, self.shapes)

    def is_backbone_of(self, name: str) -> bool:
        """Returns True if these are a network's entries without its classifier's."""
        head = entry_templates.classifier(name)
        expected = entry_templates.expected_shapes(name, self.shapes)
        return self.shapes == {e: shape for e, shape in expected.items() if e not in head}

    def without(self, names: Iterable[str]) -> tuple["Place", bool]:
        """Returns the place without these entries, and whether one was there."""
        entries = {entry: value for entry, value in self.entries.items() if entry not in names}
        return Place(self.key, entries), len(entries) < len(self.entries)


def flatten(content: Any) -> Flat:
    """Lays out the content of a file; entries of `foreign_layouts` get our names.

    Raises:
      MisfitError: two arrays come to the same name.
    """
    flat, visited = Flat({}, {}, {}), set()

    def add(name: str, value: Any, home: int, depth: int) -> None:
        items = None
        if isinstance(value, Mapping):
            items = value.items()
        elif isinstance(value, list | tuple):
            items = enumerate(value)
        if items is None or depth > _DEPTH:
            if not _is_array(value):
                flat.others[name] = type(value).__name__
            elif name in flat.arrays:
                raise MisfitError(f"holds two entries {name}, in dicts within dicts")
            elif not name.endswith(_COUNTERS):
                flat.arrays[name], flat.homes[name] = value, home
        elif id(value) not in visited:  # one that holds itself, or is there twice
            visited.add(id(value))
            for key, item in items:
                add(f"{name}.{key}" if name else str(key), item, id(value), depth + 1)

    add("", content, 0, 0)
    found = entry_layouts.read(foreign_layouts.KNOWN, flat.arrays)
    arrays = {name: value for name, (value, _) in found.items()}
    return Flat(arrays, {name: flat.homes[o] for name, (_, o) in found.items()}, flat.others)


def _is_array(value: Any) -> bool:
    try:
        return bool(value.dtype) and tuple(value.shape) is not None
    except Exception:  # of tensors that have no one shape too
        return False


def places(flat: Flat, name: str) -> list[Place]:
    """Returns where entries of a network stand; those that fit it first, then the fullest."""
    wanted, found = entry_templates.template(name), []
    libraries = [renaming.to_ours for renaming in published.renamings(name)]
    for respell in (str, _unwrapped, *libraries):
        names = {respell(entry): entry for entry in flat.arrays}
        if len(names) < len(flat.arrays):
            continue  # two entries would have the same name
        hits = _hits(names, wanted)
        full = [key for key, count in hits.items() if count == len(wanted)]
        fullest = full or [key for key, _ in hits.most_common(8)]
        found += [_place(flat, names, wanted, key, full) for key in fullest]
        if full:
            break
    return sorted(found, key=lambda place: _rank(place, name))


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _rank(place: Place, name: str) -> tuple[bool, int, int, int]:
    wanted = entry_templates.expected_shapes(name, place.shapes)
    hits, same = wanted.keys() & place.entries.keys(), wanted.items() & place.shapes.items()
    return (not place.is_of(name), -len(hits), -len(same), len(place.key))


def _hits(names: Mapping[str, str], wanted: Mapping[str, Any]) -> collections.Counter[str]:
    """Returns the number of entries of a network behind each key."""
    hits: collections.Counter[str] = collections.Counter()
    for entry in names:
        parts = entry.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in wanted:
                hits[".".join(parts[:i])] += 1
    return hits


def _place(
    flat: Flat, names: Mapping[str, str], wanted: Mapping[str, Any], key: str, full: Sequence[str]
) -> Place:
    """Returns the entries behind a key, in dicts that hold some of the network, not in `full`."""
    prefix = f"{key}." if key else ""
    inner = tuple(f"{k}." for k in full if k != key and k.startswith(prefix))
    there = {
        entry.removeprefix(prefix): original
        for entry, original in names.items()
        if entry.startswith(prefix) and not (inner and entry.startswith(inner))
    }
    homes = {flat.homes[original] for entry, original in there.items() if entry in wanted}
    entries = {
        entry: _fitted(flat.arrays[original], wanted.get(entry))
        for entry, original in there.items()
        if flat.homes[original] in homes
    }
    return Place(key, entries)


def _fitted(value: Any, entry: entry_templates.Entry | None) -> Any:
    """Returns an array with as many axes as an entry, if the others are of length one."""
    return entry_values.with_rank(value, len(entry.shape)) if entry else value


def below(flat: Flat, key: str) -> Flat:
    """Returns the content behind a key.

    Raises:
      MisfitError: there is none.
    """
    prefix = f"{key}."
    arrays = {
        name.removeprefix(prefix): value
        for name, value in flat.arrays.items()
        if name.startswith(prefix)
    }
    if not arrays:
        keys = dict.fromkeys(name.split(".")[0] for name in [*flat.arrays, *flat.others])
        raise MisfitError(f"holds nothing under '{key}'; there are: {listed(keys)}")
    homes = {name: flat.homes[prefix + name] for name in arrays}
    return Flat(arrays, homes, {})


def choose(found: Sequence[Place], flat: Flat, name: str, below: str = "") -> tuple[Place, str]:
    """Returns the place to take of several, and a note about the choice, "" for none.

    Args:
      found: places that `places` returned.
      flat: the content of the file.
      name: name of the network.
      below: the key before everything in `flat`.

    Raises:
      MisfitError: two hold different weights, and neither is an average of the other.
    """
    fitting = [place for place in found if place.is_of(name)]
    if not fitting:
        return found[0], ""
    averages = [place for place in fitting if _is_average(place.key)]
    averages.sort(key=lambda place: _timm_rank(place.key))
    if averages and _timm_rank(averages[0].key) < len(_TIMM):
        averages = averages[:1]
    candidates = averages or fitting
    taken, before = candidates[0], f"{below}." if below else ""
    if not all(_is_same(taken, other) for other in candidates[1:]):
        keys = listed(_shown_key(before + place.key) for place in candidates)
        raise MisfitError(
            f"holds weights of {name} under {keys}, which differ; name the key behind the file:"
            f" FILE@{before}{candidates[-1].key}"
        )
    others = [place.key for place in fitting if place not in candidates]
    if others:
        choice = f", which FILE@{before}{others[0]} takes" if others[0] else ""
        return taken, (
            f"the averaged weights under {before}{taken.key} are taken, not those under"
            f" {_shown_key(others[0])}{choice}"
        )
    fit, wanted = {place.key for place in fitting}, entry_templates.template(name)
    rivals = [
        place.key
        for place in found
        if place.key not in fit and 2 * len(wanted.keys() & place.entries.keys()) >= len(wanted)
    ]
    if not averages:
        firsts = dict.fromkeys(entry.split(".")[0] for entry in flat.arrays if "." in entry)
        rivals += filter(_is_average, firsts)
    if rivals:
        return taken, (
            f"the weights under {_shown_key(before + taken.key)} are taken; those under"
            f" {_shown_key(before + rivals[0])} have other names or shapes"
        )
    return taken, ""


def _timm_rank(key: str) -> int:
    first = key.split(".")[0]
    return _TIMM.index(first) if first in _TIMM else len(_TIMM)


def _is_average(key: str) -> bool:
    return not _AVERAGES.isdisjoint(re.split(r"[._]", key.lower()))


def _shown_key(key: str) -> str:
    return key.rstrip(".") or "no key"


def _is_same(first: Place, second: Place) -> bool:
    try:
        return all(
            value is second.entries[name]
            or np.array_equal(entry_values.read(value), entry_values.read(second.entries[name]))
            for name, value in first.entries.items()
        )
    except ValueError:  # Values that cannot be read are reported for the place that is taken.
        return False


def shown(name: Any) -> str:
    """Returns a name in a file, which may be anything, as one short line."""
    return errors.printable(str(name))[:60]


def listed(names: Iterable[str], most: int = 4) -> str:
    """Returns the first of some names, and the number of the others."""
    names = [shown(name) for name in names]
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest if names else "nothing"
