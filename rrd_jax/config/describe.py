"""The output of --print_config: all fields of a config as text."""

import inspect
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rrd_jax import errors, imports, objectives
from rrd_jax.config import methods, validation
from rrd_jax.objectives import Record
from rrd_jax.settings import Values, documented, kinds
from rrd_jax.settings.kinds import Mapped

_WIDTH = 79
_OBJECTIVE_MEANINGS = {
    "weight": "Factor in the total loss; the default is the published weight.",
    "warmup": "Epochs over which the weight rises from 0 to its value; 0 for no warm-up.",
    "factory": "Import path of the objective.",
}


class Entry(NamedTuple):
    """A field of a config with its documentation.

    Attributes:
      path: the name, after the names of its sections.
      value: the value in the config.
      default: the default.
      values: the allowed values, in words.
      meaning: the meaning of the field and of its values.
    """

    path: str
    value: Any
    default: Any
    values: str
    meaning: str


def describe(config: ConfigDict) -> str:
    """Returns a text that lists every field: value, default, allowed values and meaning.

    A star marks fields that differ from their default.

    Raises:
      InputError: a section or a field is missing or unknown.
    """
    values = validation.read(config)
    all_entries = list(entries(values))
    head = (
        f"{values['name'] or 'The config'}: all fields; set them with --config.FIELD=VALUE. A star"
        " marks a changed field, with its default in [brackets]."
    )
    return "\n".join([textwrap.fill(head, _WIDTH), *map(_text, all_entries)])


def entries(values: Values) -> Iterator[Entry]:
    """Yields an entry for every field, objectives last; raises as `describe` does."""
    for path, field, value in validation.iterate_fields(values):
        if isinstance(field.kind, Mapped):
            _check_mapped(path, value)
        if path == "objectives":
            continue
        yield Entry(path, value, field.default, _values(field.kind), field.meaning)
    for name, options in values["objectives"].items():
        _check_mapped(f"objectives.{name}", options)
        yield from objective_entries(name, options)


def objective_entries(name: str, fields: Mapping[str, Any]) -> Iterator[Entry]:
    """Yields an entry for every field of an objective.

    Args:
      name: name of the objective.
      fields: fields of the objective with their values, as returned by `methods.fields`.
    """
    record = objectives.record(name, fields.get("factory", ""))
    default_fields = methods.fields(record, fields.get("factory", ""))
    field_kinds = validation.OBJECTIVE_FIELDS | validation.option_kinds(name, fields)
    options, meanings = imports.parameters(record.factory), meanings_of(record)
    for option in (*default_fields, *(option for option in fields if option not in default_fields)):
        default = methods.default_value(default_fields.get(option))
        kind = field_kinds.get(option) or _named_type(options.get(option))
        yield Entry(
            f"objectives.{name}.{option}",
            methods.default_value(fields.get(option, default)),
            default,
            _values(kind),
            meanings.get(option, ""),
        )


def _check_mapped(path: str, value: Any) -> None:
    if problem := Mapped().problem(path, value):
        raise errors.InputError(problem)


def _values(kind: Any) -> str:
    """Returns the description of a kind as a separate phrase, instead of after "must be"."""
    words = (
        str(kind).removeprefix("a ").removesuffix(" on one line, with printable characters only")
    )
    return f"{words[:1].upper()}{words[1:]}"


def _text(entry: Entry) -> str:
    changed = entry.value != entry.default
    default = f" [{kinds.short_repr(entry.default)}]" if changed else ""
    head = textwrap.fill(
        f"{'*' if changed else ' '} {entry.path} = {kinds.short_repr(entry.value)}{default}",
        _WIDTH,
        subsequent_indent="      ",
    )
    body = f"{entry.values}. {entry.meaning}".strip()
    indents = {"initial_indent": " " * 6, "subsequent_indent": " " * 6}
    return f"{head}\n{textwrap.fill(body, _WIDTH, **indents)}"


def _named_type(option: inspect.Parameter | None) -> str:
    kind = imports.option_type(option) if option else None
    return "anything" if kind in (None, object) else f"of type {kind.__name__}"


def meanings_of(record: Record) -> dict[str, str]:
    """Returns the meaning of each option from the docstrings of the factory and of its loss."""
    module = inspect.getmodule(record.factory)
    loss = getattr(module, f"{record.name}_loss", None)
    meanings = documented(loss, "Args") | _OBJECTIVE_MEANINGS | documented(record.factory, "Args")
    return {name: text[:1].upper() + text[1:] for name, text in meanings.items()}
