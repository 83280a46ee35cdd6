"""Fields that only whoever takes them knows: of a user's network, an optimizer, a data source."""

from typing import Any

from ml_collections import ConfigDict


class _AnyConfigDict(type(ConfigDict)):
    """Of Options: a launch file may put a dict in their place, which becomes a ConfigDict."""

    def __instancecheck__(cls, value: Any) -> bool:
        """Whether a field of Options may be set to this; ml_collections asks before it does."""
        return isinstance(value, ConfigDict)


class Options(ConfigDict, metaclass=_AnyConfigDict):
    """A ConfigDict that takes any field from the command line, locked or not.

    Its fields are checked, with the signature of what they are for, when the config is parsed. A
    value is a Python literal, such as 3, 0.1, True or (1,2), or else a string.
    """

    def get_type(self, key: str) -> type:
        """Of a field; `object` makes the command line read a literal."""
        return object

    def __getattr__(self, name: str) -> Any:
        """None for a field that is not there yet: the command line asks before it sets one."""
        if name.startswith("_") or name in self:
            return super().__getattr__(name)
        return None

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets a field, new or not, of any type."""
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        """As __setattr__."""
        with self.unlocked(), self.ignore_type():
            super().__setitem__(name, value)
