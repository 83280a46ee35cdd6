"""Lazy imports, so that programs start without waiting for libraries that they may not need."""

import importlib
from typing import Any

from rrd_jax import errors


class Library:
    """A module that is imported when one of its attributes is first used.

    Args:
      name: name of the module, such as orbax.checkpoint. If the module cannot be imported, the
        first use of an attribute raises an UnavailableError.
    """

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        try:
            module = importlib.import_module(self._name)
        # A library that does not fit another library's version raises errors of many types.
        except Exception as error:
            raise errors.UnavailableError(
                f"{self._name} cannot be imported ({' '.join(str(error).split())[:200]}); install"
                " it again"
            ) from error
        return getattr(module, attribute)
