"""Entries of a network under names and in shapes of others: read as ours, and written back.

A layout is a table of rules. A name that ends with a dot is a module's, and stands for all that it
holds. `{}` stands for a number that both sides have, `{+}` and `{++}` for one or two more than
theirs, `{#}` for one that only they have. Where a side has several entries, their rows follow each
other: query, key and value are one matrix here.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from rrd_jax import errors
from rrd_jax.weights import entry_values
from rrd_jax.weights.entry_values import Stored

Entries = dict[str, Any]
_LEAF = r"(weight|bias|running_mean|running_var)"
# How their arrays become ours, and back.
_FORMS: dict[str, tuple[Callable, Callable]] = {
    "": (lambda array: array, lambda array: array),
    "token": (lambda array: array[None, None], lambda array: array[0, 0]),
    "rows": (lambda array: array[None], lambda array: array[0]),
    "turned": (lambda array: array.T, lambda array: array.T),
    "flat": (lambda array: array.reshape(-1), lambda array: array.reshape(1, 1, 1, -1)),
    # Where PyTorch has a convolution of one pixel; `wrappers` takes either.
    "matrix": (lambda array: array, lambda array: array.reshape(len(array), -1)),
}


@dataclasses.dataclass(frozen=True)
class Rule:
    """Entries that correspond.

    Attributes:
      ours: one or more; all theirs hold rows of these together.
      theirs: likewise.
      form: how theirs lie otherwise, a key of `_FORMS`.
      shares: of rows that ours have.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    form: str = ""
    shares: tuple[int, ...] = (1,)

    @functools.cached_property
    def pattern(self) -> re.Pattern:
        """Of the first of theirs; its groups are the numbers, and what a module holds."""
        return _pattern(self.theirs[0])

    def names(self, templates: tuple[str, ...], numbers: list[int], leaf: str) -> list[str]:
        """Of the entries, ours or theirs."""
        return [_filled(template, numbers) + leaf for template in templates]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How others lay out the entries of a kind of network.

    Attributes:
      marker: theirs of an entry that no other layout has.
      inner: what may stand before the entries of all but the classifier.
      rules: of these.
      heads: rules of the classifier.
      ignored: an expression for theirs that compute nothing of what is wanted here.
      zeros: {ours that they do not have, and is 0: the entry whose rows it has}.
      after: makes ours of what the rules gave.
      before: the inverse.
      always: whether `inner` is written without a classifier too.
    """

    marker: str
    inner: str
    rules: tuple[Rule, ...]
    heads: tuple[Rule, ...] = ()
    ignored: str = "$^"
    zeros: Mapping[str, str] = dataclasses.field(default_factory=dict)
    after: Callable[[Entries], Entries] = dict
    before: Callable[[Entries], Entries] = dict
    always: bool = False

    @functools.cached_property
    def beginning(self) -> re.Pattern:
        """Finds a marker: groups of what stands before the network, and before most entries."""
        inner = f"(?:{re.escape(self.inner)})?" if self.inner else ""
        return re.compile(rf"(?P<outer>(?:.*?\.)??)(?P<inner>{inner}){re.escape(self.marker)}")


def read(layouts: tuple[Layout, ...], arrays: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """What a file holds, where networks that are laid out in these ways have our names.

    Args:
      layouts: that are looked for.
      arrays: of each name in the file.

    Returns:
      {name: (array, the name of it, or of a part of it, in the file)}; arrays of several parts are
      read when they are needed.
    """
    entries = {name: (value, name) for name, value in arrays.items()}
    for layout in layouts:
        for name in arrays:
            is_there = name in entries and name.endswith(layout.marker)
            if is_there and (match := layout.beginning.fullmatch(name)):
                _read_one(layout, match["outer"], match["inner"], entries)
    return entries


def _read_one(layout: Layout, outer: str, inner: str, entries: dict[str, tuple[Any, str]]) -> None:
    """Puts the entries of one network in the place of theirs."""
    theirs = {n: value for n, (value, _) in entries.items() if n.startswith(outer)}
    ours: dict[str, Any] = {}
    origins: dict[str, str] = {}
    used: set[str] = set()
    for prefix, rules in ((outer + inner, layout.rules), (outer, layout.heads)):
        for name in theirs:
            for rule in rules if name.startswith(prefix) and name not in used else ():
                if not (match := rule.pattern.fullmatch(name, len(prefix))):
                    continue
                *numbers, leaf = match.groups()
                numbers = list(map(int, numbers))
                names = [name]
                if len(rule.theirs) > 1:
                    names = [prefix + part for part in rule.names(rule.theirs, numbers, leaf)]
                if all(part in theirs for part in names):
                    parts = [theirs[part] for part in names]
                    joined = dict(_joined(rule, parts, numbers, leaf))
                    ours |= joined
                    origins |= dict.fromkeys(joined, name)
                    used |= set(names)
                break
    ignored = re.compile(layout.ignored)
    for name in theirs:
        if name in used or any(
            name.startswith(prefix) and ignored.match(name, len(prefix))
            for prefix in (outer, outer + inner)
        ):
            del entries[name]
    for entry, like in layout.zeros.items():
        if like in ours:
            count = ours[like].shape[0]
            ours[entry], origins[entry] = np.zeros(count, np.float32), origins[like]
    somewhere = next(iter(origins.values()))
    for entry, value in layout.after(ours).items():
        entries[outer + entry] = (value, origins.get(entry, somewhere))


def _joined(
    rule: Rule, parts: list[Any], numbers: list[int], leaf: str
) -> Iterator[tuple[str, Any]]:
    """Our entries of theirs, by name."""
    names = rule.names(rule.ours, numbers, leaf)
    if len(parts) == len(names) == 1 and rule.form in ("", "matrix"):
        yield names[0], parts[0]
        return
    take = _FORMS[rule.form][0]

    def whole() -> np.ndarray:
        arrays = [take(entry_values.read(part)) for part in parts]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

    kind = _dtype(parts)
    shapes = [take(np.broadcast_to(np.float32(0), tuple(part.shape))).shape for part in parts]
    if len(parts) == len(names) == 1:
        yield names[0], Stored(shapes[0], kind, whole)
        return
    rows = sum(shape[0] for shape in shapes)
    ends = np.cumsum((0, *rule.shares)) * rows // sum(rule.shares)
    for name, start, end in zip(names, ends, ends[1:], strict=False):
        shape = (int(end - start), *shapes[0][1:])
        yield name, Stored(shape, kind, lambda start=start, end=end: whole()[start:end])


def _dtype(parts: list[Any]) -> str:
    """Of parts that are joined: that of one that has no floats, if there is one."""
    kinds = [str(part.dtype).removeprefix("torch.") for part in parts]
    return next((kind for kind in kinds if kind not in entry_values.FLOATS), kinds[0])


def write(layout: Layout, entries: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict of ours, as others lay it out; the inverse of `read`.

    Args:
      layout: of the network.
      entries: by our names.

    Raises:
      InputError: an entry has no place there.
    """
    rest = layout.before(dict(entries))
    for entry in layout.zeros:
        if np.any(rest.pop(entry, 0)):
            raise errors.InputError(
                f"{entry} is not 0, and has no place in the layout of these weights: write them"
                " with the entries of timm"
            )
    heads = list(_written(layout.heads, rest))
    inner = layout.inner if heads or layout.always else ""
    body = [(inner + name, value) for name, value in _written(layout.rules, rest)]
    if rest:
        raise errors.InputError(f"{next(iter(rest))} has no place in the layout of these weights")
    return {name: np.ascontiguousarray(value) for name, value in (*body, *heads)}


def _written(rules: tuple[Rule, ...], rest: Entries) -> Iterator[tuple[str, np.ndarray]]:
    """Their entries of ours, which are taken out."""
    for rule in rules:
        back = _FORMS[rule.form][1]
        pattern = _pattern(rule.ours[0])
        shifts = list(map(len, re.findall(r"\{(\+*)\}", rule.ours[0])))
        for name in list(rest):
            if not (match := pattern.fullmatch(name)):
                continue
            *groups, leaf = match.groups()
            numbers = [int(group) - shift for group, shift in zip(groups, shifts, strict=True)]
            if min(numbers, default=0) < 0:  # of another rule
                continue
            ours = [rest.pop(part) for part in rule.names(rule.ours, numbers, leaf)]
            if len(ours) == len(rule.theirs) == 1:
                parts = ours
            else:
                parts = np.split(np.concatenate(ours), len(rule.theirs))
            names = rule.names(rule.theirs, numbers, leaf)
            yield from ((n, back(part)) for n, part in zip(names, parts, strict=True))


def later(shape: tuple[int, ...], like: Any, compute: Callable[[], np.ndarray]) -> Stored:
    """An array of this shape that is computed when it is needed; of what `like` is made of."""
    return Stored(shape, _dtype([like]), compute)


def _pattern(template: str) -> re.Pattern:
    """Of names; its groups are the numbers, and what a module holds."""
    text = re.escape(template)
    for mark, expression in (
        ("{}", r"(\d+)"),
        ("{+}", r"(\d+)"),
        ("{++}", r"(\d+)"),
        ("{#}", r"\d+"),
    ):
        text = text.replace(re.escape(mark), expression)
    return re.compile(text + (_LEAF if template.endswith(".") else "()"))


def _filled(template: str, numbers: list[int]) -> str:
    """A name with numbers in the places of theirs."""
    remaining = iter(numbers)
    return re.sub(r"\{(\+*)\}", lambda m: str(next(remaining) + len(m[1])), template)
