"""Data sets from TFDS (without TensorFlow), import paths, Hugging Face, image folders and arrays.

`load(Source(name="cifar100"))` opens a data set by name; `from_sources(train, test)` uses sources
or arrays of a program. TFDS, Grain and OpenCV are imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from rrd_jax.data.source import Source

if TYPE_CHECKING:
    from rrd_jax.data.builders.registry import DATASETS
    from rrd_jax.data.dataset import Dataset, from_sources, load
    from rrd_jax.data.subsets.degraded import have_same_origin, origin

__all__ = ["DATASETS", "Dataset", "Source", "from_sources", "have_same_origin", "load", "origin"]

_MODULES = {
    "DATASETS": "builders.registry",
    "Dataset": "dataset",
    "from_sources": "dataset",
    "have_same_origin": "subsets.degraded",
    "load": "dataset",
    "origin": "subsets.degraded",
}
# Public modules of `augment`, which are also attributes of this package.
_AUGMENT = ("colours", "erasing", "operators", "policies")


def __getattr__(name: str) -> Any:
    """Imports a public name on first use."""
    if name in _AUGMENT:
        return importlib.import_module(f"{__name__}.augment.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
