"""Reads and writes state dicts whose entries have other names and shapes than in rrd_jax.

`networks.family` defines layouts.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from rrd_jax import errors
from rrd_jax.networks import Stored
from rrd_jax.networks.family import Entries, Layout, Rule, name_pattern
from rrd_jax.weights import entry_values

# Conversions of foreign arrays to native arrays, and back.
FORMS: dict[str, tuple[Callable, Callable]] = {
    "": (lambda array: array, lambda array: array),
    "token": (lambda array: array[None, None], lambda array: array[0, 0]),
    "rows": (lambda array: array[None], lambda array: array[0]),
    "transposed": (lambda array: array.T, lambda array: array.T),
    "flat": (lambda array: array.reshape(-1), lambda array: array.reshape(1, 1, 1, -1)),
    # PyTorch has a 1x1 convolution; `entry_values.with_rank` accepts either shape.
    "matrix": (lambda array: array, lambda array: array.reshape(len(array), -1)),
    # A linear layer of the values of a patch of three channels, in the order of a convolution.
    "patches": (
        lambda array: array.reshape(len(array), 3, math.isqrt(array.shape[1] // 3), -1),
        lambda array: array.reshape(len(array), -1),
    ),
}


def read(layouts: tuple[Layout, ...], arrays: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Reads the arrays of a file, and renames entries in known layouts to native names.

    Args:
      layouts: the layouts to search for, in this order.
      arrays: arrays by name in the file.

    Returns:
      {name: (array, name in the file of the array or of one of its parts)}. Arrays that consist of
      several parts are read lazily.
    """
    entries = {name: (value, name) for name, value in arrays.items()}
    for layout in layouts:
        for name in arrays:
            is_marker = name in entries and name.endswith(layout.marker)
            if is_marker and (match := layout.beginning.fullmatch(name)):
                _read_one(layout, match["outer"], match["inner"], entries)
    return entries


def _read_one(layout: Layout, outer: str, inner: str, entries: dict[str, tuple[Any, str]]) -> None:
    """Replaces the foreign entries of one network by native entries, in place."""
    foreign = {n: value for n, (value, _) in entries.items() if n.startswith(outer)}
    native: dict[str, Any] = {}
    origins: dict[str, str] = {}
    used = {name for name in foreign if _is_one(layout, outer + inner, name, foreign[name])}
    for prefix, rules in ((outer + inner, layout.rules), (outer, layout.heads)):
        for name in foreign:
            for rule in rules if name.startswith(prefix) and name not in used else ():
                if not (match := rule.pattern.fullmatch(name, len(prefix))):
                    continue
                *numbers, leaf = match.groups()
                numbers = list(map(int, numbers))
                names = [name]
                if len(rule.foreign) > 1:
                    names = [prefix + part for part in rule.names(rule.foreign, numbers, leaf)]
                if all(part in foreign for part in names):
                    parts = [foreign[part] for part in names]
                    joined = dict(_joined(rule, parts, numbers, leaf))
                    native |= joined
                    origins |= dict.fromkeys(joined, name)
                    used |= set(names)
                break
    ignored = re.compile(layout.ignored)
    for name in foreign:
        if name in used or any(
            name.startswith(prefix) and ignored.match(name, len(prefix))
            for prefix in (outer, outer + inner)
        ):
            del entries[name]
    for entry, like in layout.zeros.items():
        if like in native:
            count = native[like].shape[0]
            native[entry], origins[entry] = np.zeros(count, np.float32), origins[like]
    default_origin = next(iter(origins.values()))
    if layout.class_position:
        native = _merge_class_position(native)
    for entry, value in layout.after(native).items():
        entries[outer + entry] = (value, origins.get(entry, default_origin))


def _is_one(layout: Layout, prefix: str, name: str, value: Any) -> bool:
    """Returns True for an entry of `Layout.ignored_ones` whose values are all 1."""
    if not name.startswith(prefix) or not re.compile(layout.ignored_ones).match(name, len(prefix)):
        return False
    try:
        return bool(np.all(entry_values.read(value) == 1))
    # Unreadable values are reported later, if the network is chosen.
    except ValueError:
        return False


def _merge_class_position(entries: Entries) -> Entries:
    """Adds the class token's position to the class token of a network with registers."""
    entries = {name: value for name, value in entries.items() if name != "mask_token"}
    if not entries.keys() >= {"reg_token", "cls_token", "pos_embed"}:
        return entries
    token, positions = entries["cls_token"], entries["pos_embed"]
    count = tuple(positions.shape)[1] - 1

    def read(value: Any) -> np.ndarray:
        return entry_values.read(value).astype(np.float32)

    return entries | {
        "cls_token": Stored(
            tuple(token.shape), _dtype([token]), lambda: read(token) + read(positions)[:, :1]
        ),
        "pos_embed": Stored(
            (1, count, *tuple(positions.shape)[2:]),
            _dtype([positions]),
            lambda: read(positions)[:, 1:],
        ),
    }


def _split_class_position(entries: Entries) -> Entries:
    """Inverts `_merge_class_position` with a class position of 0; adds an unused mask token."""
    if "reg_token" in entries:
        positions = entries["pos_embed"]
        class_position = np.zeros_like(positions[:, :1])
        entries = entries | {"pos_embed": np.concatenate([class_position, positions], axis=1)}
    return entries | {"mask_token": np.zeros_like(entries["cls_token"][0])}


def _joined(
    rule: Rule, parts: list[Any], numbers: list[int], leaf: str
) -> Iterator[tuple[str, Any]]:
    """Yields the names and arrays of the native entries of a rule."""
    names = rule.names(rule.native, numbers, leaf)
    if len(parts) == len(names) == 1 and rule.form in ("", "matrix"):
        yield names[0], parts[0]
        return
    take = FORMS[rule.form][0]

    def concatenated() -> np.ndarray:
        arrays = [take(entry_values.read(part)) for part in parts]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

    kind = _dtype(parts)
    shapes = [take(np.broadcast_to(np.float32(0), tuple(part.shape))).shape for part in parts]
    if len(parts) == len(names) == 1:
        yield names[0], Stored(shapes[0], kind, concatenated)
        return
    rows = sum(shape[0] for shape in shapes)
    ends = np.cumsum((0, *rule.shares)) * rows // sum(rule.shares)
    for name, start, end in zip(names, ends, ends[1:], strict=False):
        shape = (int(end - start), *shapes[0][1:])
        yield name, Stored(shape, kind, lambda start=start, end=end: concatenated()[start:end])


def _dtype(parts: list[Any]) -> str:
    """Returns the first dtype of parts that is not a float type, or the dtype of the first part."""
    kinds = [str(part.dtype).removeprefix("torch.") for part in parts]
    return next((kind for kind in kinds if kind not in entry_values.FLOATS), kinds[0])


def write(layout: Layout, entries: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Converts native entries to a foreign state dict; the inverse of `read`.

    Args:
      layout: layout of the network.
      entries: arrays by native name.

    Raises:
      InputError: the layout has no entry for an array.
    """
    rest = layout.before(dict(entries))
    if layout.class_position:
        rest = _split_class_position(rest)
    for entry in layout.zeros:
        if np.any(rest.pop(entry, 0)):
            raise errors.InputError(
                f"entry {entry} is not 0 and has no counterpart in this layout; write the weights"
                " with timm's entry names"
            )
    heads = list(_written(layout.heads, rest))
    inner = layout.inner if heads or layout.always else ""
    body = [(inner + name, value) for name, value in _written(layout.rules, rest)]
    if rest:
        raise errors.InputError(
            f"entry {next(iter(rest))} has no counterpart in this layout; choose another layout"
        )
    return {name: np.ascontiguousarray(value) for name, value in (*body, *heads)}


def _written(rules: tuple[Rule, ...], rest: Entries) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the foreign entries of rules; removes their native entries from `rest`."""
    for rule in rules:
        back = FORMS[rule.form][1]
        pattern = name_pattern(rule.native[0])
        shifts = list(map(len, re.findall(r"\{(\+*)\}", rule.native[0])))
        for name in list(rest):
            if not (match := pattern.fullmatch(name)):
                continue
            *groups, leaf = match.groups()
            numbers = [int(group) - shift for group, shift in zip(groups, shifts, strict=True)]
            # Another rule matches entries with smaller numbers.
            if min(numbers, default=0) < 0:
                continue
            native = [rest.pop(part) for part in rule.names(rule.native, numbers, leaf)]
            if len(native) == len(rule.foreign) == 1:
                parts = native
            else:
                parts = np.split(np.concatenate(native), len(rule.foreign))
            names = rule.names(rule.foreign, numbers, leaf)
            yield from ((n, back(part)) for n, part in zip(names, parts, strict=True))
