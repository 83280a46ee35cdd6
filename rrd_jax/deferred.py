"""Libraries that are imported when something of them is first used: no start waits for them."""

import importlib
from typing import Any


class Library:
    """A module, imported when its first attribute is asked for.

    Args:
      name: such as orbax.checkpoint; the attributes are those of this module.
    """

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)
