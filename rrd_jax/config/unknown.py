"""Messages for unknown fields, with suggestions."""

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
    """Returns the error message for an unknown field, with similar fields as suggestions.

    Args:
      path: the unknown field, such as learning_rate or optimizer.learn_rate.
      config: all fields, as nested dicts.
    """
    *_, name = path.rpartition(".")
    section = path.split(".")[1] if path.startswith("objectives.") and path.count(".") > 1 else ""
    objectives = config.get("objectives", {})
    if section and section not in objectives:
        names = ", ".join(map(str, objectives))
        remedy = errors.hint(section, RECORDS).rstrip() or "python -m rrd_jax.objectives lists all"
        if section in RECORDS:
            remedy = f"add it to the method in the config string, such as CONFIG.py:kd+{section}"
        return (
            f"unknown field '{path}': this config has the objectives {names}, but not '{section}';"
            f" {remedy}"
        )
    if section:
        hint = errors.hint(name, objectives[section])
        return f"unknown field '{path}'; {hint}known: {', '.join(objectives[section])}"
    # The path may be a section that a config file added; its own fields are not suggested.
    candidates = [field for field in paths(config) if not f"{field}.".startswith(f"{path}.")]
    similar = [f"'{field}'" for field in _similar(path, name, candidates)]
    hint = f"did you mean {' or '.join(similar)}? " if similar else ""
    return f"unknown field '{path}'; {hint}{LIST}"


def _initials(path: str) -> str:
    return "".join(word[:1] for word in path.rpartition(".")[2].split("_"))


def _similar(path: str, name: str, fields: list[str]) -> list[str]:
    """Returns up to three fields: namesakes in other sections, else similar names or paths."""
    names: dict[str, list[str]] = {}
    for field in fields:
        names.setdefault(field.rpartition(".")[2], []).append(field)
    siblings = [field for field in fields if field.startswith(f"{path.rpartition('.')[0]}.")]
    namesakes = names.get(name, [])
    if namesakes:
        return difflib.get_close_matches(path, namesakes, n=3, cutoff=0)
    close = difflib.get_close_matches(path, siblings, n=1, cutoff=0.75)
    close += difflib.get_close_matches(path, fields, n=1, cutoff=0.75)
    close += [
        field for match in difflib.get_close_matches(name, names, n=2) for field in names[match]
    ]
    # Abbreviations, such as lr for learning_rate.
    close += [field for field in fields if _initials(field) == name]
    prefixed = [field for field in fields if field.rpartition(".")[2].startswith(name)]
    return list(dict.fromkeys(close or prefixed))[:3]
