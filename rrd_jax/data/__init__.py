"""Data sets, by name: TFDS read through `as_data_source`, without TensorFlow.

`load(Source(name="cifar100"))` opens one. Nothing of TFDS, Grain or OpenCV is imported before.
"""

import importlib
from typing import TYPE_CHECKING, Any

from rrd_jax.data.source import Source

if TYPE_CHECKING:
    from rrd_jax.data.builders.registry import DATASETS
    from rrd_jax.data.dataset import Dataset, load

__all__ = ["DATASETS", "Dataset", "Source", "load"]

_MODULES = {"Dataset": "dataset", "load": "dataset", "DATASETS": "builders.registry"}


def __getattr__(name: str) -> Any:
    """Imports what is heavy when it is first asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
