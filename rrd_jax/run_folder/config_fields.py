"""Config fields by their dotted paths, such as optimizer.learning_rate."""

from collections.abc import Mapping
from typing import Any


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values by dotted path: {"data.name": ..., "teacher[0].model": ...}."""
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
