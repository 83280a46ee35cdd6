"""The fields of a config by the names that flags give them, such as optimizer.learning_rate."""

from collections.abc import Mapping
from typing import Any

ABSENT = object()  # of a field that is not there; None is a value


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"data.name": ..., "teacher[0].model": ...}: values by the names that flags give fields."""
    flat = {}
    for name, value in tree.items():
        items = value if isinstance(value, list) else []
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        elif items and all(isinstance(item, dict) for item in items):
            flat |= flatten({f"{name}[{i}]": item for i, item in enumerate(items)}, prefix)
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def value(tree: Any, path: str) -> Any:
    """One field of a nested config, without flattening all of it; ABSENT where there is none.

    Of a list of sections, as several teachers are, `teacher.model` is the list of the values and
    `teacher[0].model` one of them.
    """
    name, _, rest = path.partition(".")
    name, _, index = name.partition("[")
    if not isinstance(tree, Mapping) or name not in tree:
        return ABSENT
    found = tree[name]
    if index:
        place = index.removesuffix("]")
        if not (isinstance(found, list) and place.isdecimal() and int(place) < len(found)):
            return ABSENT
        found = found[int(place)]
    if not rest:
        return ABSENT if _is_section(found) else found
    if isinstance(found, list):
        values = [value(item, rest) for item in found]
        return ABSENT if ABSENT in values or not values else values
    return value(found, rest)


def _is_section(found: Any) -> bool:
    items = found if isinstance(found, list) else [found]
    return any(isinstance(item, Mapping) for item in items)
