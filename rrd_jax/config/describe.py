"""All fields of a config as text: --print_config."""

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
_OF_OBJECTIVES = {
    "weight": "Factor in the total loss; the default is the published one.",
    "warmup": "Epochs over which the weight grows to that; 0 for none.",
    "factory": "The import path of the objective.",
}


class Entry(NamedTuple):
    """A field of a config, and what is said of it.

    Attributes:
      path: its name, behind those of its sections.
      value: what the config has.
      default: of that field.
      values: which ones it can have, in words.
      meaning: what it is, and what its values do.
    """

    path: str
    value: Any
    default: Any
    values: str
    meaning: str


def describe(config: ConfigDict) -> str:
    """Every field: its value, the default, the values it can have, and its meaning.

    Fields that are not at their default begin with a star.

    Raises:
      InputError: a section or a field is missing, or unknown.
    """
    values = validation.read(config)
    listed = list(entries(values))
    head = (
        f"{values['name'] or 'The config'}: every field, set with --config.FIELD=VALUE. A star"
        " marks what is not the default, in [brackets]."
    )
    return "\n".join([textwrap.fill(head, _WIDTH), *map(_text, listed)])


def entries(values: Values) -> Iterator[Entry]:
    """Yields the entry of every field, those of objectives last; raises as `describe` does."""
    for path, field, value in validation.iterate_fields(values):
        if isinstance(field.kind, Mapped):
            _check_mapped(path, value)
        if path == "objectives":
            continue
        yield Entry(path, value, field.default, _values(field.kind), field.meaning)
    for name, options in values["objectives"].items():
        _check_mapped(f"objectives.{name}", options)
        yield from of_objective(name, options)


def of_objective(name: str, given: Mapping[str, Any]) -> Iterator[Entry]:
    """What is said of the fields of an objective.

    Args:
      name: its name.
      given: its fields with their values, as `methods.fields` makes them.
    """
    record = objectives.record(name, given.get("factory", ""))
    usual = methods.fields(record, given.get("factory", ""))
    known = validation.OBJECTIVE_FIELDS | validation.option_kinds(name, given)
    options, meanings = imports.parameters(record.factory), meanings_of(record)
    for option in (*usual, *(option for option in given if option not in usual)):
        default = methods.default_value(usual.get(option))
        kind = known.get(option) or _named_type(options.get(option))
        yield Entry(
            f"objectives.{name}.{option}",
            methods.default_value(given.get(option, default)),
            default,
            _values(kind),
            meanings.get(option, ""),
        )


def _check_mapped(path: str, value: Any) -> None:
    if fault := Mapped().fault(path, value):
        raise errors.InputError(fault)


def _values(kind: Any) -> str:
    """The words of a kind, which continue "must be", as a phrase of its own."""
    words = str(kind).removeprefix("a ").removesuffix(" on one line, of printable characters")
    return f"{words[:1].upper()}{words[1:]}"


def _text(entry: Entry) -> str:
    changed = entry.value != entry.default
    usual = f" [{kinds.short_repr(entry.default)}]" if changed else ""
    head = textwrap.fill(
        f"{'*' if changed else ' '} {entry.path} = {kinds.short_repr(entry.value)}{usual}",
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
    """What docstrings say of each option of an objective: its factory's, else its loss's."""
    module = inspect.getmodule(record.factory)
    loss = getattr(module, f"{record.name}_loss", None)
    meanings = documented(loss, "Args") | _OF_OBJECTIVES | documented(record.factory, "Args")
    return {name: text[:1].upper() + text[1:] for name, text in meanings.items()}
