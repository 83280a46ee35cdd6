"""Lazy imports, so that programs start without waiting for libraries that they may not need."""

import importlib
from typing import Any


class Library:
    """A module that is imported when one of its attributes is first used.

    Args:
      name: name of the module, such as orbax.checkpoint.
    """

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)
