"""Sections whose fields depend on a function: options of a network, an optimizer, a data source."""

from typing import Any

from ml_collections import ConfigDict


class _AnyConfigDict(type(ConfigDict)):
    """Metaclass of Options: a config file may replace Options by any ConfigDict."""

    def __instancecheck__(cls, value: Any) -> bool:
        """Returns True for any ConfigDict; ml_collections checks this before setting a field."""
        return isinstance(value, ConfigDict)


class Options(ConfigDict, metaclass=_AnyConfigDict):
    """A ConfigDict that accepts any field from the command line, locked or not.

    When the config is parsed, the fields are checked against the signature of the function that
    takes them. A value is a Python literal, such as 3, 0.1, True or (1,2), or else a string.
    """

    def get_type(self, key: str) -> type:
        """Returns `object` for any field, so that the command line parses a literal."""
        return object

    def __getattr__(self, name: str) -> Any:
        """Returns None for a missing field, because the command line reads a field to set it."""
        if name.startswith("_") or name in self:
            return super().__getattr__(name)
        return None

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets a field of any type, whether or not it exists."""
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        """Sets a field of any type, whether or not it exists."""
        with self.unlocked(), self.ignore_type():
            super().__setitem__(name, value)
