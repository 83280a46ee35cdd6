"""Opens data sets that users bring: by import path, such as my_data:source, or as objects."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rrd_jax import errors, imports
from rrd_jax.data import border
from rrd_jax.data.images import conversion
from rrd_jax.data.source import Source
from rrd_jax.data.sources.random_access import Handle
from rrd_jax.data.splits import Splits

_Options = tuple[tuple[str, Any], ...]
_POSITIONAL = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays(Sequence):
    """A source of arrays.

    Attributes:
      images: [N, H, W, channels] uint8, or as `conversion.pixels` takes them.
      labels: [N].
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[np.ndarray, Any]:
        return self.images[i], self.labels[i]


def open_source(source: Source) -> Splits:
    """Opens the data set of an import path.

    The attribute is called with the name of a split, as `train_split` and `test_split` have it
    before a slice, and with the options; or it is a mapping from splits to sources, an object
    whose attributes are called as the splits are, or one source, whose split is "train".

    Raises:
      InputError: there is no such module or attribute, it raised, or gave something else than
        random access to labelled images.
    """
    found = imports.load("data set", source.name)
    return open_splits(source, found, path=source.name)


def open_splits(
    source: Source, found: Any, *, path: str = "", num_classes: int | None = None
) -> Splits:
    """The splits of an object, as `open_source` has it.

    Args:
      source: split expressions and options.
      found: what has the splits.
      path: by which worker processes find it; "" where only this process has it.
      num_classes: C; None to find it.

    Raises:
      InputError: a split or an example that is not as it must be.
    """
    what = f"data set '{path}'" if path else "data set"
    if source.options and not _is_called(found):
        raise errors.InputError(
            f"{what} takes no data.options ({', '.join(dict(source.options))}): it is"
            f" {conversion.described(found)}, not a function"
        )

    def open_split(split: str) -> Handle:
        reopen = functools.partial(_reopened, path, split, source.options) if path else None
        return Handle(what, _of_split(what, found, split, source.options), reopen)

    known = () if _is_called(found) else _split_names(found)
    return border.open_splits(
        source, path or "data", open_split, known, origin=found, num_classes=num_classes
    )


def _reopened(path: str, split: str, options: _Options) -> Any:
    """The source of a split, in a worker process."""
    return _of_split(f"data set '{path}'", imports.load("data set", path), split, options)


def _is_called(found: Any) -> bool:
    """Whether it is a function of the split's name, or a class of one split."""
    return callable(found) and not _is_source(found) and not _is_source(found, "train")


def _is_source(found: Any, attribute: str = "") -> bool:
    """Whether it has random access, or an attribute of it has."""
    if attribute:
        found = getattr(found, attribute, None)
    random = hasattr(found, "__len__") and hasattr(found, "__getitem__")
    return random and not isinstance(found, type | str)


def _split_names(found: Any) -> tuple[str, ...]:
    """The names of the splits of a mapping or of one source; none for an object's attributes."""
    if _is_columns(found):
        return ("train",)
    if isinstance(found, Mapping):
        return tuple(map(str, found))
    return ("train",) if _is_source(found) else ()


def _of_split(what: str, found: Any, split: str, options: _Options) -> Any:
    """The source of a split, of whatever kind the object is that has it."""
    if _is_called(found):
        found = _call(what, found, split, options)
    if isinstance(found, Mapping) and not _is_columns(found):
        if split not in found:
            listed = ", ".join(map(str, found)) or "none"
            raise errors.InputError(f"{what} has no split '{split}'; its splits: {listed}")
        found = found[split]
    elif not _is_source(found) and _is_source(found, split):
        found = getattr(found, split)
    elif isinstance(found, type):  # its attributes are the splits
        raise errors.InputError(f"{what} has no split '{split}', an attribute of that name")
    source = _as_arrays(what, split, found)
    if isinstance(source, Mapping) or not _is_source(source):
        raise errors.InputError(
            f"{what} gives {conversion.described(source)} for split '{split}', but must give a"
            " source with __len__ and __getitem__, which gives examples by number"
        )
    with errors.user_code(f"taking the length of split '{split}' of", what):
        length = len(source)
    if not length:
        raise errors.InputError(f"{what} has no examples in split '{split}'")
    return source


def _call(what: str, function: Callable, split: str, options: _Options) -> Any:
    """What a user's function gives for a split: its argument `split`, or else its first one."""
    parameters = imports.parameters(function)
    if not parameters and not inspect.isbuiltin(function):  # whose signature is not known
        arguments = imports.check(what, function, dict(options), prefix="data.options.")
        given = ()
    else:
        names = [name for name, p in parameters.items() if p.kind in _POSITIONAL]
        by_name = "split" in parameters and names[:1] != ["split"]
        first = "split" if by_name or not names else names[0]
        arguments = imports.check(what, function, dict(options), (first,), prefix="data.options.")
        given = () if by_name else (split,)
        arguments |= {"split": split} if by_name else {}
    with errors.user_code(f"opening split '{split}' of", what):
        return function(*given, **arguments)


def _is_columns(found: Any) -> bool:
    """Whether it is a mapping of all images and all labels."""
    return isinstance(found, Mapping) and {"image", "label"} <= set(found)


def _as_arrays(what: str, split: str, found: Any) -> Any:
    """Arrays of all images and all labels as a source; anything else as it is."""
    if _is_columns(found):
        found = (found["image"], found["label"])
    is_pair = isinstance(found, tuple | list) and len(found) == 2
    if not (is_pair and getattr(found[0], "ndim", 0) >= 3):
        return found
    images, labels = map(np.asarray, found)
    if labels.shape[:1] != images.shape[:1]:
        count = (
            f"{len(labels)} labels" if labels.ndim else f"labels {conversion.described(found[1])}"
        )
        raise errors.InputError(
            f"{what} gives {len(images)} images for split '{split}', but {count}"
        )
    return Arrays(images, labels)
