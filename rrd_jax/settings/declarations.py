"""Config fields as members of frozen dataclasses."""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from rrd_jax import errors
from rrd_jax.settings.kinds import Kind, Mapped
from rrd_jax.settings.values import Values

# A function that returns the reason why a field is unused; "" if the field is used.
Rule = Callable[[Values], str]
_KEY = "config field"
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of a config.

    Attributes:
      path: the name, after the names of its sections, such as train.epochs.
      default: the value in CIFAR-100's recipe (arXiv 2407.12073, 1910.10699).
      kind: the allowed values.
      meaning: the meaning of the field and of its values.
      changeable: True if a resumed run may change the field, because it does not affect results.
      unused: rules for when the field is unused; the first reason is reported.
      overrides: for a field of a teacher, the field that it replaces when the teacher is trained,
        unless its value is None or ""; "" for no field.
    """

    path: str
    default: Any
    kind: Kind
    meaning: str = ""
    changeable: bool = False
    unused: tuple[Rule, ...] = ()
    overrides: str = ""

    @property
    def section(self) -> str:
        """The names of the sections, such as data.views; "" for a field outside sections."""
        return self.path.rpartition(".")[0]

    @property
    def name(self) -> str:
        """The name within the section."""
        return self.path.rpartition(".")[2]


def field(
    path: str,
    default: Any,
    kind: Kind,
    *,
    changeable: bool = False,
    unused: Rule | Sequence[Rule] = (),
    overrides: str = "",
) -> Any:
    """Declares a config field: a `dataclasses.field` that carries a `Field`.

    The meaning is read from the attribute's entry in the dataclass's docstring.
    """
    rules = (unused,) if callable(unused) else tuple(unused)
    declared = Field(path, default, kind, "", changeable, rules, overrides)
    if isinstance(kind, Mapped):
        return dataclasses.field(default_factory=dict, metadata={_KEY: declared})
    return dataclasses.field(default=default, metadata={_KEY: declared})


@functools.cache
def fields_of(cls: type) -> Mapping[str, Field]:
    """Returns the config fields that a dataclass declares, by attribute name."""
    meanings = documented(cls, "Attributes")
    return {
        member.name: dataclasses.replace(member.metadata[_KEY], meaning=meanings[member.name])
        for member in dataclasses.fields(cls)
        if _KEY in member.metadata
    }


def documented(target: Any, section: str) -> dict[str, str]:
    """Returns the entries of a docstring's section, such as Args or Attributes, by name."""
    text = inspect.getdoc(target) or ""
    match = re.search(rf"^{section}:\n((?:  .*\n|\n)*)", f"{text}\n", re.MULTILINE)
    entries: dict[str, str] = {}
    name = ""
    for line in match[1].splitlines() if match else ():
        if entry := re.match(r"  (\w+): (.*)", line):
            name, entries[entry[1]] = entry[1], entry[2]
        elif name:
            entries[name] = f"{entries[name]} {line.strip()}".strip()
    return entries


def build(cls: type[_T], values: Values, **members: Any) -> _T:
    """Builds a dataclass from the values of a config.

    Args:
      cls: a dataclass that declares config fields.
      values: values of the config.
      **members: attributes that are not config fields, or that replace the config's values.
    """
    declared = {
        name: field.kind.value(values[field.path])
        for name, field in fields_of(cls).items()
        if name not in members
    }
    return cls(**declared, **members)


def check(instance: Any) -> None:
    """Raises an InputError for the first attribute whose value its declaration does not allow."""
    for name, declared in fields_of(type(instance)).items():
        problem = declared.kind.problem(declared.path, getattr(instance, name))
        if problem and not isinstance(declared.kind, Mapped):
            raise errors.InputError(problem)
