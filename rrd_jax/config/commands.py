"""What a command line says wrongly of a config, where ml_collections' own words help little."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from rrd_jax import errors
from rrd_jax.config import unknown, validation
from rrd_jax.config.fields import FIELDS
from rrd_jax.config.options import Options
from rrd_jax.settings import kinds
from rrd_jax.settings.kinds import Kind, Optional
from rrd_jax.terminal import config_errors


def explain(argv: Sequence[str]) -> str:
    """The first --config.FIELD of a command that names no field, or has a value that is none.

    Args:
      argv: a command that ml_collections could not read.

    Returns:
      What is wrong; "" where that is something else, such as the config file.
    """
    file = _file(argv)
    try:
        config = ConfigFileFlagParser(name="config").parse(file) if file else None
    except Exception:  # a user's code, or no Python at all
        return ""
    if not isinstance(config, ConfigDict):
        failed = file is None or type(config).__name__ == "_ErrorConfig"  # ml_collections'
        return "" if failed else config_errors.wrong_return(file.partition(":")[0], config)
    try:
        tree = validation.read(config).tree
    except errors.InputError:  # `parse` says why.
        return ""
    faults = (_fault(flag, text, config, tree) for flag, text in _overrides(argv))
    bare = (_bare(argument, tree) for argument in argv[1:])
    return next(filter(None, itertools.chain(faults, bare)), "")


def _file(argv: Sequence[str]) -> str | None:
    """The config file with what stands behind its colon; None where the command names none."""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if re.match(r"--?config(=|$)", argument):
            return argument.partition("=")[2] if "=" in argument else following
    return None


def _overrides(argv: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Each flag --config.FIELD, and the text of its value; None where it has none."""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        flag, equals, text = argument.partition("=")
        if re.match(r"--?(no)?config\.", flag):
            given = None if following.startswith("-") else following
            yield flag, text if equals else given


def _bare(argument: str, tree: Mapping[str, Any]) -> str:
    """Of a flag that is the name of fields, what to write; "" for any other argument."""
    name = argument.lstrip("-").partition("=")[0]
    if not argument.startswith("-") or name in flags.FLAGS:
        return ""
    meant = [path for path in unknown.paths(tree) if f".{path}".endswith(f".{name}")]
    known = " or ".join(f"--config.{path}" for path in meant[:3])
    return f"there is no flag --{name}; fields of the config are set with {known}" if meant else ""


def _fault(flag: str, text: str | None, config: ConfigDict, tree: Mapping[str, Any]) -> str:
    path = flag.partition("config.")[2]
    words = re.findall(r"\[(-?\d+)\]|([^.\[\]]+)", path)
    if not re.fullmatch(r"\w+(\[-?\d+\])?(\.\w+(\[-?\d+\])?)*", path):
        return f"{flag} names no field: write --config.SECTION.FIELD=VALUE; {unknown.LIST}"
    at: Any = config
    for place, name in words:
        is_teachers = at is config.get("teacher")
        if isinstance(at, list) and (not place or int(place) >= len(at)):
            return (
                f"{flag}: there are {len(at)} teachers: write teacher[0] to teacher[{len(at) - 1}]"
            )
        if type(at) is Options:
            return ""
        if isinstance(at, ConfigDict) and place and is_teachers:
            return f"{flag}: there is one teacher: write --config.teacher{path.partition(']')[2]}"
        if isinstance(at, ConfigDict) and name not in at:
            return f"{flag}: {unknown.message(path, tree)}"
        if not isinstance(at, ConfigDict | list):
            return f"{flag}: {unknown.message(path, tree)}"
        at = at[int(place) if place else name]
    if type(at) is Options:
        if text is not None and FIELDS[re.sub(r"\[-?\d+\]", "", path)].kind.reads(text):
            return ""
        wanted = f"a dict, such as {{'b1': 0.9}}, or set one by one: {flag}.NAME=VALUE"
        return f"{flag} is {kinds.short_repr(text)}, but must be {wanted}"
    if isinstance(at, ConfigDict | list):
        fields = list(unknown.paths(tree))
        first = next((field for field in fields if field.startswith((f"{path}.", f"{path}["))), "")
        return f"{flag} is a section: set its fields, such as --config.{first}" if first else ""
    kind = _kind(path, config)
    if kind is None or text is None or kind.reads(text):
        return ""
    if isinstance(kind, Optional):
        return (
            f"{flag} is {kinds.short_repr(text)}, but must be {kind.kind}; omit the flag for None"
        )
    return f"{flag} is {kinds.short_repr(text)}, but must be {kind}"


def _kind(path: str, config: ConfigDict) -> Kind | None:
    if path.startswith("objectives."):
        _, name, option = path.split(".")
        known = validation.OBJECTIVE_FIELDS | validation.option_kinds(name, config.objectives[name])
        return known.get(option)
    field = FIELDS.get(re.sub(r"\[-?\d+\]", "", path))
    return field and field.kind
