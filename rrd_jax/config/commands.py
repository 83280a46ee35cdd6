"""Explains errors in --config flags in more detail than ml_collections does."""

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
    """Explains the first --config.FIELD flag of a command with an unknown field or invalid value.

    Args:
      argv: a command that ml_collections could not parse.

    Returns:
      The error message; "" if the error is elsewhere, such as in the config file.
    """
    file = _file(argv)
    try:
        config = ConfigFileFlagParser(name="config").parse(file) if file else None
    except Exception:
        # The config file raises, or is not Python.
        return ""
    if not isinstance(config, ConfigDict):
        # ml_collections returns an _ErrorConfig if it cannot read the file.
        failed = file is None or type(config).__name__ == "_ErrorConfig"
        return "" if failed else config_errors.wrong_return(file.partition(":")[0], config)
    try:
        tree = validation.read(config).tree
    except errors.InputError:
        # `parse` reports this error later.
        return ""
    problems = (_problem(flag, text, config, tree) for flag, text in _overrides(argv))
    bare_flags = (_missing_prefix(argument, tree) for argument in argv[1:])
    return next(filter(None, itertools.chain(problems, bare_flags)), "")


def _file(argv: Sequence[str]) -> str | None:
    """Returns the value of --config, a file and a config string; None without the flag."""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if re.match(r"--?config(=|$)", argument):
            return argument.partition("=")[2] if "=" in argument else following
    return None


def _overrides(argv: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yields each flag --config.FIELD and the text of its value, None without a value."""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        flag, equals, text = argument.partition("=")
        if re.match(r"--?(no)?config\.", flag):
            separate_text = None if following.startswith("-") else following
            yield flag, text if equals else separate_text


def _missing_prefix(argument: str, tree: Mapping[str, Any]) -> str:
    """Returns a message for a flag that has the name of a config field; "" for other flags."""
    name = argument.lstrip("-").partition("=")[0]
    if not argument.startswith("-") or name in flags.FLAGS:
        return ""
    matches = [path for path in unknown.paths(tree) if f".{path}".endswith(f".{name}")]
    suggestion = " or ".join(f"--config.{path}" for path in matches[:3])
    return f"unknown flag --{name}; did you mean {suggestion}?" if matches else ""


def _teacher_indices(count: int) -> str:
    if not count:
        return "this config has no teacher; name a pair, such as CONFIG.py:resnet8x4-resnet8"
    last = f" to teacher[{count - 1}]" if count > 1 else ""
    noun = "teacher" if count == 1 else "teachers"
    return f"the config has {count} {noun}; write teacher[0]{last}"


def _problem(flag: str, text: str | None, config: ConfigDict, tree: Mapping[str, Any]) -> str:
    path = flag.partition("config.")[2]
    words = re.findall(r"\[(-?\d+)\]|([^.\[\]]+)", path)
    if not re.fullmatch(r"\w+(\[-?\d+\])?(\.\w+(\[-?\d+\])?)*", path):
        return f"{flag} is not a field; write --config.SECTION.FIELD=VALUE; {unknown.LIST}"
    node: Any = config
    for index, name in words:
        is_teacher = node is config.get("teacher")
        if isinstance(node, list) and (not index or int(index) >= len(node)):
            return f"{flag}: {_teacher_indices(len(node))}"
        if type(node) is Options:
            return ""
        if isinstance(node, ConfigDict) and index and is_teacher:
            flag_without_index = f"--config.teacher{path.partition(']')[2]}"
            return f"{flag}: the config has one teacher; write {flag_without_index}"
        if isinstance(node, ConfigDict) and name not in node:
            return f"{flag}: {unknown.message(path, tree)}"
        if not isinstance(node, ConfigDict | list):
            return f"{flag}: {unknown.message(path, tree)}"
        node = node[int(index) if index else name]
    if type(node) is Options:
        if text is not None and FIELDS[re.sub(r"\[-?\d+\]", "", path)].kind.reads(text):
            return ""
        return (
            f"{flag} is {kinds.short_repr(text)}, but must be a dict, such as {{'b1': 0.9}}; or set"
            f" options one by one: {flag}.NAME=VALUE"
        )
    if isinstance(node, ConfigDict | list):
        fields = list(unknown.paths(tree))
        first = next((field for field in fields if field.startswith((f"{path}.", f"{path}["))), "")
        return f"{flag} is a section; set its fields, such as --config.{first}" if first else ""
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
        option_kinds = validation.option_kinds(name, config.objectives[name])
        return (validation.OBJECTIVE_FIELDS | option_kinds).get(option)
    field = FIELDS.get(re.sub(r"\[-?\d+\]", "", path))
    return field and field.kind
