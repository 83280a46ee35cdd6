"""Finds the entries of a network in the content of a file, under any keys and prefixes.

Training scripts wrap state dicts (`{"model": ..., "epoch": ...}`), and wrapper modules prefix
entries (`module.conv1.weight`). The search handles both in the same way: it flattens the content
of the file, with keys joined by dots. A candidate is a set of entries of the network under one
prefix.
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

# Maximum depth of nested dicts; training scripts need three.
_DEPTH = 12
# Counters of batch norms and of weight averages.
_COUNTERS = ("num_batches_tracked", "n_averaged")
_AVERAGES = {"ema", "swa", "averaged", "average", "avg"}
# Keys of averages in timm's order of preference, for files that hold several averages.
_TIMM = ("state_dict_ema", "model_ema")
# Parts of names that wrappers add: torch.compile, DataParallel, FSDP, checkpointing.
_WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


class MisfitError(ValueError):
    """Error of a file without usable weights; the message follows the name of the file."""


class Flat(NamedTuple):
    """The flattened content of a file.

    Attributes:
      arrays: arrays by name.
      parents: id of the dict that contains each array, by name.
      others: types of values that are not arrays, by name.
    """

    arrays: dict[str, Any]
    parents: dict[str, int]
    others: dict[str, str]


class Candidate(NamedTuple):
    """The entries under one key of a file.

    Attributes:
      key: prefix of the entries' names, "" for none.
      entries: arrays by the network's entry names.
    """

    key: str
    entries: dict[str, Any]

    @property
    def shapes(self) -> dict[str, Shape]:
        """PyTorch's shapes of the entries."""
        return {name: tuple(value.shape) for name, value in self.entries.items()}

    def matches(self, name: str) -> bool:
        """Returns True if these are exactly the entries of a network."""
        return self.shapes == entry_templates.expected_shapes(name, self.shapes)

    def matches_backbone(self, name: str) -> bool:
        """Returns True if these are exactly the entries of a network without its classifier."""
        head = entry_templates.classifier(name)
        expected = entry_templates.expected_shapes(name, self.shapes)
        return self.shapes == {e: shape for e, shape in expected.items() if e not in head}

    def without(self, names: Iterable[str]) -> tuple["Candidate", bool]:
        """Returns the candidate without some entries, and whether it contained any of them."""
        entries = {entry: value for entry, value in self.entries.items() if entry not in names}
        return Candidate(self.key, entries), len(entries) < len(self.entries)


def flatten(content: Any) -> Flat:
    """Flattens the content of a file, and renames entries in foreign layouts to native names.

    Raises:
      MisfitError: two arrays have the same name.
    """
    flat, visited = Flat({}, {}, {}), set()

    def add(name: str, value: Any, parent: int, depth: int) -> None:
        items = None
        if isinstance(value, Mapping):
            items = value.items()
        elif isinstance(value, list | tuple):
            items = enumerate(value)
        if items is None or depth > _DEPTH:
            if not _is_array(value):
                flat.others[name] = type(value).__name__
            elif name in flat.arrays:
                raise MisfitError(
                    f"holds two entries {name} in nested dicts; save one state dict alone"
                )
            elif not name.endswith(_COUNTERS):
                flat.arrays[name], flat.parents[name] = value, parent
        # A container may contain itself or occur twice.
        elif id(value) not in visited:
            visited.add(id(value))
            for key, item in items:
                add(f"{name}.{key}" if name else str(key), item, id(value), depth + 1)

    add("", content, 0, 0)
    entries = entry_layouts.read(foreign_layouts.ALL, flat.arrays)
    arrays = {name: value for name, (value, _) in entries.items()}
    parents = {name: flat.parents[origin] for name, (_, origin) in entries.items()}
    return Flat(arrays, parents, flat.others)


def _is_array(value: Any) -> bool:
    try:
        return bool(value.dtype) and tuple(value.shape) is not None
    # Nested tensors, among others, raise errors because they have no single shape.
    except Exception:
        return False


def find_candidates(flat: Flat, name: str) -> list[Candidate]:
    """Returns the candidates for a network: exact matches first, then by number of entries."""
    template, candidates = entry_templates.template(name), []
    libraries = [renaming.to_native for renaming in published.renamings(name)]
    for rename in (str, _unwrapped, *libraries):
        names = {rename(entry): entry for entry in flat.arrays}
        # Two entries would have the same name.
        if len(names) < len(flat.arrays):
            continue
        hits = _hits(names, template)
        full = [key for key, count in hits.items() if count == len(template)]
        fullest = full or [key for key, _ in hits.most_common(8)]
        candidates += [_candidate(flat, names, template, key, full) for key in fullest]
        if full:
            break
    return sorted(candidates, key=lambda candidate: _rank(candidate, name))


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _rank(candidate: Candidate, name: str) -> tuple[bool, int, int, int]:
    expected = entry_templates.expected_shapes(name, candidate.shapes)
    hits = expected.keys() & candidate.entries.keys()
    matches = expected.items() & candidate.shapes.items()
    return (not candidate.matches(name), -len(hits), -len(matches), len(candidate.key))


def _hits(names: Mapping[str, str], template: Mapping[str, Any]) -> collections.Counter[str]:
    """Counts the entries of a network under each key."""
    hits: collections.Counter[str] = collections.Counter()
    for entry in names:
        parts = entry.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in template:
                hits[".".join(parts[:i])] += 1
    return hits


def _candidate(
    flat: Flat, names: Mapping[str, str], template: Mapping[str, Any], key: str, full: Sequence[str]
) -> Candidate:
    """Returns the candidate for a key.

    Dicts without an entry of the network, and entries under longer keys of `full`, are omitted.
    """
    prefix = f"{key}." if key else ""
    inner = tuple(f"{k}." for k in full if k != key and k.startswith(prefix))
    originals = {
        entry.removeprefix(prefix): original
        for entry, original in names.items()
        if entry.startswith(prefix) and not (inner and entry.startswith(inner))
    }
    parents = {flat.parents[original] for entry, original in originals.items() if entry in template}
    entries = {
        entry: _fitted(flat.arrays[original], template.get(entry))
        for entry, original in originals.items()
        if flat.parents[original] in parents
    }
    return Candidate(key, entries)


def _fitted(value: Any, entry: entry_templates.Entry | None) -> Any:
    """Returns an array with the rank of its entry, if only axes of length 1 differ."""
    return entry_values.with_rank(value, len(entry.shape)) if entry else value


def under_key(flat: Flat, key: str) -> Flat:
    """Returns the content under a key.

    Raises:
      MisfitError: no array is stored under the key.
    """
    prefix = f"{key}."
    arrays = {
        name.removeprefix(prefix): value
        for name, value in flat.arrays.items()
        if name.startswith(prefix)
    }
    if not arrays:
        keys = dict.fromkeys(name.split(".")[0] for name in [*flat.arrays, *flat.others])
        raise MisfitError(f"holds nothing under '{key}'; its keys: {short_list(keys)}")
    parents = {name: flat.parents[prefix + name] for name in arrays}
    return Flat(arrays, parents, {})


def choose(
    candidates: Sequence[Candidate], flat: Flat, name: str, parent_key: str = ""
) -> tuple[Candidate, str]:
    """Returns the candidate to load, and a note about the choice, "" for none.

    Args:
      candidates: the result of `find_candidates`.
      flat: the content of the file.
      name: name of the network.
      parent_key: the key in the file that contains `flat`, "" for the whole file.

    Raises:
      MisfitError: two candidates hold different weights, and neither is an average of the other.
    """
    fitting = [candidate for candidate in candidates if candidate.matches(name)]
    if not fitting:
        return candidates[0], ""
    averages = [candidate for candidate in fitting if _is_average(candidate.key)]
    averages.sort(key=lambda candidate: _timm_rank(candidate.key))
    if averages and _timm_rank(averages[0].key) < len(_TIMM):
        averages = averages[:1]
    preferred = averages or fitting
    choice, prefix = preferred[0], f"{parent_key}." if parent_key else ""
    if not all(_is_same(choice, other) for other in preferred[1:]):
        keys = short_list(_display_key(prefix + candidate.key) for candidate in preferred)
        raise MisfitError(
            f"holds different weights of {name} under {keys}; name one of the keys after the file,"
            f" such as FILE@{prefix}{preferred[-1].key}"
        )
    others = [candidate.key for candidate in fitting if candidate not in preferred]
    if others:
        hint = f"; to use these, pass FILE@{prefix}{others[0]}" if others[0] else ""
        return choice, (
            f"using the averaged weights under {prefix}{choice.key}, not the weights under"
            f" {_display_key(others[0])}{hint}"
        )
    fitting_keys = {candidate.key for candidate in fitting}
    template = entry_templates.template(name)
    rivals = [
        candidate.key
        for candidate in candidates
        if candidate.key not in fitting_keys
        and 2 * len(template.keys() & candidate.entries.keys()) >= len(template)
    ]
    if not averages:
        firsts = dict.fromkeys(entry.split(".")[0] for entry in flat.arrays if "." in entry)
        rivals += filter(_is_average, firsts)
    if rivals:
        return choice, (
            f"using the weights under {_display_key(prefix + choice.key)}; the entries under"
            f" {_display_key(prefix + rivals[0])} have other names or shapes"
        )
    return choice, ""


def _timm_rank(key: str) -> int:
    first = key.split(".")[0]
    return _TIMM.index(first) if first in _TIMM else len(_TIMM)


def _is_average(key: str) -> bool:
    return not _AVERAGES.isdisjoint(re.split(r"[._]", key.lower()))


def _display_key(key: str) -> str:
    return key.rstrip(".") or "no key"


def _is_same(first: Candidate, second: Candidate) -> bool:
    try:
        return all(
            value is second.entries[name]
            or np.array_equal(entry_values.read(value), entry_values.read(second.entries[name]))
            for name, value in first.entries.items()
        )
    # Unreadable values are reported later, for the chosen candidate.
    except ValueError:
        return False


def short_name(name: Any) -> str:
    """Returns a name from a file as one short printable line."""
    return errors.printable(str(name))[:60]


def short_list(names: Iterable[str], limit: int = 4) -> str:
    """Returns the first `limit` names and the number of the remaining names."""
    names = [short_name(name) for name in names]
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest if names else "nothing"
