"""Sets config fields by path from Python."""

import numbers
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from rrd_jax import errors


def set_fields(config: ConfigDict, values: Mapping[str, Any]) -> None:
    """Sets fields of a config.

    Args:
      config: the config; modified in place.
      values: new values by path; a mapping sets several fields of a section.

    Raises:
      InputError: a field is unknown, a section is set to a value that is not a mapping, or a number
        to True or False.
    """
    if not isinstance(values, Mapping):
        raise errors.InputError(
            f"fields is {values!r}, but must be a mapping, such as {{'data.augment': 'none'}}"
        )
    for path, value in values.items():
        *parents, name = str(path).split(".")
        section = config
        for parent in parents:
            section = section.get(parent) if isinstance(section, ConfigDict) else None
        takes_any = parents and parents[-1].endswith("options")
        if not isinstance(section, ConfigDict) or (name not in section and not takes_any):
            errors.lookup("field", path, _paths(config))
        if isinstance(section.get(name), ConfigDict):
            if not isinstance(value, Mapping | ConfigDict):
                names = ", ".join(_paths(section[name], f"{path}.")) or "with a mapping"
                raise errors.InputError(
                    f"'{path}' is {value!r}, but is a section; set its fields, {names}"
                )
            set_fields(config, {f"{path}.{part}": inner for part, inner in value.items()})
        else:
            is_number = not takes_any and section.get_type(name) is float
            if is_number and isinstance(value, bool | np.bool_):
                # ConfigDict would store 1.0 or 0.0.
                raise errors.InputError(f"'{path}' is {value}, but must be a number")
            # A text is one of the names, or several separated by commas.
            has_names = isinstance(section.get(name), tuple) and isinstance(value, str)
            if has_names and all(isinstance(part, str) for part in section[name] or (0,)):
                value = (value,)
            section[name] = value if takes_any else _converted(value, section.get_type(name))


def _converted(value: Any, field_type: type) -> Any:
    """Converts a value to the type of its field, as the command line does, if possible.

    Other values are returned unchanged; the checks of the config reject them.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if field_type is str and isinstance(value, os.PathLike):
        return str(value)
    if field_type is tuple and isinstance(value, list | tuple):
        return tuple(_converted(part, float) for part in value)
    if field_type is float and is_number:
        return float(value)
    if field_type is int and is_number and isinstance(value, numbers.Integral):
        return int(value)
    return value


def _paths(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Returns the fields of a config by path."""
    paths: dict[str, Any] = {}
    for name, value in config.items():
        is_tree = isinstance(value, ConfigDict)
        paths |= _paths(value, f"{prefix}{name}.") if is_tree else {f"{prefix}{name}": value}
    return paths
