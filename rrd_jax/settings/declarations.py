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
      legacy: see `field`.
      choose: see `field`.
    """

    path: str
    default: Any
    kind: Kind
    meaning: str = ""
    changeable: bool = False
    unused: tuple[Rule, ...] = ()
    overrides: str = ""
    legacy: Any = None
    choose: Callable[[Values], Any] | None = None

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
    legacy: Any = None,
    choose: Callable[[Values], Any] | None = None,
) -> Any:
    """Declares a config field: a `dataclasses.field` that carries a `Field`.

    The meaning is read from the attribute's entry in the dataclass's docstring.

    A field of the kind `Auto` has the default "auto". When a job starts, `config.parse` replaces
    "auto" by the value that the config.json of the workdir records; by `legacy`, if the workdir was
    written before the field existed; and in a new workdir by `choose(values)`. If the value depends
    on the data set, `choose` is None, and `training.recipe.Part.with_fields` records the value once
    the data set is open. config.json never contains "auto" for such a field, so that a resumed run,
    prediction and export use the values of the first start.

    Args:
      path: see `Field`, as for the other arguments that are not listed below.
      default: the default.
      kind: the allowed values.
      changeable: whether a resumed run may change the field.
      unused: rules for when the field is unused.
      overrides: the field that a teacher's field replaces.
      legacy: the value in workdirs written before the field existed; for `Auto` only.
      choose: returns the value in new workdirs from the other values of the config; None if the
        value depends on the data set; for `Auto` only.
    """
    rules = (unused,) if callable(unused) else tuple(unused)
    declared = Field(path, default, kind, "", changeable, rules, overrides, legacy, choose)
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
