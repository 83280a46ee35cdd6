"""Messages for unknown fields, with the ones that may have been meant."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from rrd_jax import errors
from rrd_jax.objectives import RECORDS

LIST = "--print_config lists all fields"


def paths(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yields the path of every field of a config, such as train.epochs or teacher[0].model."""
    for name, value in sorted(config.items()):
        path = f"{prefix}{name}"
        if isinstance(value, dict) and (value or path == "objectives"):
            yield from paths(value, f"{path}.")
        elif isinstance(value, list) and path == "teacher":
            for i, part in enumerate(value):
                yield from paths(part, f"{path}[{i}].")
        else:
            yield path


def message(path: str, config: Mapping[str, Any]) -> str:
    """Returns the message for an unknown field: which ones are near, and where all are listed.

    Args:
      path: the unknown field, such as learning_rate or optimizer.learn_rate.
      config: all fields, as nested dicts.
    """
    *_, name = path.rpartition(".")
    section = path.split(".")[1] if path.startswith("objectives.") and path.count(".") > 1 else ""
    objectives = config.get("objectives", {})
    if section and section not in objectives:
        names = ", ".join(map(str, objectives))
        way_out = errors.hint(section, RECORDS).rstrip() or "python -m rrd_jax.objectives lists all"
        if section in RECORDS:
            way_out = f"a method of the config string brings it, such as CONFIG.py:kd+{section}"
        return (
            f"there is no field '{path}': this config has the objectives {names}, and no"
            f" '{section}'; {way_out}"
        )
    if section:
        listed = ", ".join(objectives[section])
        hint = errors.hint(name, objectives[section])
        return f"there is no field '{path}'; {hint}known of '{section}': {listed}"
    # A launch file can add it, and what is in it.
    known = [field for field in paths(config) if not f"{field}.".startswith(f"{path}.")]
    near = [f"'{field}'" for field in _near(path, name, known)]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"there is no field '{path}'; {hint}{LIST}"


def _initials(path: str) -> str:
    return "".join(word[:1] for word in path.rpartition(".")[2].split("_"))


def _near(path: str, name: str, known: list[str]) -> list[str]:
    """Returns up to three fields: of the same name elsewhere, then of a similar name or path."""
    names: dict[str, list[str]] = {}
    for field in known:
        names.setdefault(field.rpartition(".")[2], []).append(field)
    inside = [field for field in known if field.startswith(f"{path.rpartition('.')[0]}.")]
    same = names.get(name, [])
    if same:
        return difflib.get_close_matches(path, same, n=3, cutoff=0)
    close = difflib.get_close_matches(path, inside, n=1, cutoff=0.75)
    close += difflib.get_close_matches(path, known, n=1, cutoff=0.75)
    close += [
        field for near in difflib.get_close_matches(name, names, n=2) for field in names[near]
    ]
    # Such as lr for learning_rate.
    close += [field for field in known if _initials(field) == name]
    begins = [field for field in known if field.rpartition(".")[2].startswith(name)]
    return list(dict.fromkeys(close or begins))[:3]
