"""What a data set is once it is open, whoever keeps it: one function for each kind of name."""

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any

from rrd_jax import errors
from rrd_jax.data.source import Source
from rrd_jax.data.summary import Summary

# By kind of name: the module whose `open_source` opens such a set, imported for those alone.
_MODULES = {
    "tfds": "sources.prepared",
    "folder": "folder",
    "hf": "sources.huggingface",
    "import path": "sources.imported",
}


@dataclasses.dataclass(frozen=True)
class Opened:
    """Two splits, and what all their examples share.

    Attributes:
      version: name, and what tells changed data apart.
      num_classes: C.
      channels: of the images, 1 or 3.
      train: random access to examples with `image` (encoded, or uint8 [H, W, channels]), `label`
        and, if it has one, `file_name`.
      test: likewise.
      class_names: as the data name them, in the order of labels; () where they do not.
      summary: what there is to say of them.
      shared: how many examples are in both splits.
    """

    version: str
    num_classes: int
    channels: int
    train: Sequence[dict[str, Any]]
    test: Sequence[dict[str, Any]]
    class_names: tuple[str, ...] = ()
    summary: Summary = dataclasses.field(default_factory=Summary)
    shared: int = 0


def open_source(source: Source) -> Opened:
    """Opens a data set by its kind of name.

    Raises:
      InputError: an unknown name or split, data that are not there or not as they must be.
    """
    if not source.name:
        raise errors.InputError(
            "there are no images: data.name is empty; name a data set, or pass train= and test= in"
            " Python"
        )
    module = importlib.import_module(f"rrd_jax.data.{_MODULES[source.kind]}")
    return module.open_source(source)
