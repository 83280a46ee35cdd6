"""Opens custom data sets, given as an import path, such as my_data:source, or as an object."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rrd_jax import errors, imports
from rrd_jax.data.images import example_forms
from rrd_jax.data.source import Source
from rrd_jax.data.sources import user_splits
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
    """A source of examples from arrays.

    Attributes:
      images: uint8 [N, H, W, channels], or another form that `example_forms.pixels` accepts.
      labels: [N], class ids.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[np.ndarray, Any]:
        return self.images[i], self.labels[i]


def open_source(source: Source) -> Splits:
    """Opens the data set of an import path.

    The attribute is one of these: a function of the name of a split, without a slice, and of the
    options; a mapping from splits to sources; an object whose attributes are the splits; or one
    source, whose split is "train".

    Raises:
      InputError: the module or attribute does not exist, or does not give random access to
        labeled images.
      UserCodeError: the user's code raised an exception.
    """
    holder = imports.load("data set", source.name)
    return open_splits(source, holder, path=source.name)


def open_splits(
    source: Source, holder: Any, *, path: str = "", num_classes: int | None = None
) -> Splits:
    """Opens the splits of an object, as `open_source` does.

    Args:
      source: split expressions and options.
      holder: the object that provides the splits.
      path: import path of the object for worker processes; "" if only this process has the object.
      num_classes: C; None to infer the number from the source.

    Raises:
      InputError: a split or an example is invalid.
    """
    subject = f"data set '{path}'" if path else "data set"
    if source.options and not _is_function(holder):
        raise errors.InputError(
            f"{subject} takes no data.options ({', '.join(dict(source.options))}): the data set is"
            f" {example_forms.describe(holder)}, not a function"
        )

    def open_split(split: str) -> Handle:
        reopen = functools.partial(_reopen, path, split, source.options) if path else None
        return Handle(subject, _open_split(subject, holder, split, source.options), reopen)

    split_names = ()
    if (_is_source(holder) and not isinstance(holder, Mapping)) or _is_columns(holder):
        split_names = ("train",)
    elif isinstance(holder, Mapping):
        split_names = tuple(map(str, holder))
    return user_splits.open_splits(
        source, path or "data", open_split, split_names, origin=holder, num_classes=num_classes
    )


def _reopen(path: str, split: str, options: _Options) -> Any:
    """Returns the source of a split in a worker process."""
    return _open_split(f"data set '{path}'", imports.load("data set", path), split, options)


def _is_function(holder: Any) -> bool:
    """Returns True for a function or class that is called with the name of a split."""
    is_split_holder = _is_source(getattr(holder, "train", None))
    return callable(holder) and not _is_source(holder) and not is_split_holder


def _is_source(value: Any) -> bool:
    """Returns True for an object with random access."""
    is_random = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    return is_random and not isinstance(value, type | str)


def _is_columns(value: Any) -> bool:
    """Returns True for a mapping with arrays of all images and all labels."""
    return isinstance(value, Mapping) and {"image", "label"} <= set(value)


def _open_split(subject: str, holder: Any, split: str, options: _Options) -> Any:
    """Returns the source of a split from any supported kind of object."""
    if _is_function(holder):
        holder = _call(subject, holder, split, options)
    if isinstance(holder, Mapping) and not _is_columns(holder):
        if split not in holder:
            listed = ", ".join(map(str, holder)) or "none"
            raise errors.InputError(f"{subject} has no split '{split}'; available splits: {listed}")
        holder = holder[split]
    elif not _is_source(holder) and _is_source(getattr(holder, split, None)):
        holder = getattr(holder, split)
    elif isinstance(holder, type):
        raise errors.InputError(f"{subject} has no split '{split}': no attribute of that name")
    source = _as_arrays(subject, split, holder)
    if isinstance(source, Mapping) or not _is_source(source):
        raise errors.InputError(
            f"{subject} returned {example_forms.describe(source)} for split '{split}', but must"
            " return a source with __len__ and __getitem__, which returns examples by index"
        )
    with errors.user_code(f"taking the length of split '{split}' of", subject):
        length = len(source)
    errors.check_counts(**{f"the length of split '{split}' of {subject}": length or 1})
    if not length:
        raise errors.InputError(
            f"{subject} has no examples in split '{split}'; add examples, or name another split"
        )
    return source


def _call(subject: str, function: Callable, split: str, options: _Options) -> Any:
    """Calls a user's function with the split as argument `split` or as the first argument."""
    parameters = imports.parameters(function)
    names = [name for name, p in parameters.items() if p.kind in _POSITIONAL]
    by_name = "split" in parameters and names[:1] != ["split"]
    reserved = ("split",) if by_name else tuple(names[:1])
    arguments = imports.check(subject, function, dict(options), reserved, prefix="data.options.")
    with errors.user_code(f"opening split '{split}' of", subject):
        if by_name:
            return function(split=split, **arguments)
        # The signature of a builtin may be unknown. Other functions may have no parameters.
        if parameters or inspect.isbuiltin(function):
            return function(split, **arguments)
        return function(**arguments)


def _as_arrays(subject: str, split: str, value: Any) -> Any:
    """Returns arrays of all images and all labels as a source; returns other values unchanged."""
    if _is_columns(value):
        value = (value["image"], value["label"])
    is_pair = isinstance(value, tuple | list) and len(value) == 2
    if not (is_pair and getattr(value[0], "ndim", 0) >= 3):
        return value
    for part, name in zip(value, ("images", "labels"), strict=True):
        example_forms.check_unmasked(part, f"the {name} of split '{split}' of {subject}")
    images, labels = map(np.asarray, value)
    if labels.shape[:1] != images.shape[:1]:
        count = f"{len(labels)} labels" if labels.ndim else f"labels {labels}"
        raise errors.InputError(
            f"{subject} returned {len(images)} images for split '{split}', but {count}"
        )
    return Arrays(images, labels)
