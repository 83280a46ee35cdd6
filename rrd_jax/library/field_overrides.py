"""Fields of a config that are set by path from Python."""

import numbers
import os
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from rrd_jax import errors


def set_fields(config: ConfigDict, values: Mapping[str, Any]) -> None:
    """Sets fields by their path.

    Raises:
      InputError: there is no such field, or it is a section.
    """
    if not isinstance(values, Mapping):
        raise errors.InputError(
            f"fields is {values!r}, but must be a mapping, such as {{'data.augment': 'none'}}"
        )
    for path, value in values.items():
        *parents, name = str(path).split(".")
        at = config
        for parent in parents:
            at = at.get(parent) if isinstance(at, ConfigDict) else None
        takes_any = parents and parents[-1].endswith("options")
        if not isinstance(at, ConfigDict) or (name not in at and not takes_any):
            errors.lookup("field", path, _paths(config))
        if isinstance(at.get(name), ConfigDict):
            if not isinstance(value, Mapping | ConfigDict):
                listed = ", ".join(_paths(at[name], f"{path}.")) or "those of a mapping"
                raise errors.InputError(
                    f"'{path}' is {value!r}, but is a section: set its fields, {listed}"
                )
            set_fields(config, {f"{path}.{part}": inner for part, inner in value.items()})
        else:
            at[name] = value if takes_any else _converted(value, at.get_type(name))


def _converted(value: Any, wanted: type) -> Any:
    """Returns a value as the type that its field has on the command line, where it fits.

    The config's own checks refuse what does not fit.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if wanted is str and isinstance(value, os.PathLike):
        return str(value)
    if wanted is tuple and isinstance(value, list | tuple):
        return tuple(_converted(part, float) for part in value)
    if wanted is float and is_number:
        return float(value)
    if wanted is int and is_number and isinstance(value, numbers.Integral):
        return int(value)
    return value


def _paths(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Returns the fields of a config by path."""
    paths: dict[str, Any] = {}
    for name, value in config.items():
        is_tree = isinstance(value, ConfigDict)
        paths |= _paths(value, f"{prefix}{name}.") if is_tree else {f"{prefix}{name}": value}
    return paths
