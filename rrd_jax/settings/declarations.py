"""Config fields as members of frozen dataclasses."""

import dataclasses
import inspect
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from rrd_jax import errors
from rrd_jax.settings.kinds import Kind, Mapped
from rrd_jax.settings.values import Values

# Returns the reason why a field has no effect; "" if it has one.
Rule = Callable[[Values], str]
_KEY = "config field"
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of a config.

    Attributes:
      path: the name, after the names of its sections, such as train.epochs.
      default: that of CIFAR-100's recipe (arXiv 2407.12073, 1910.10699).
      kind: the allowed values.
      meaning: what the field controls, and what its values do.
      changeable: True if a resumed run may change it, because no number depends on it.
      unused: rules; the first that returns a reason says why the field has no effect.
      overrides: for a field of a teacher, the field whose value it replaces when the teacher is
        trained; None and "" replace nothing. "" for no such field.
    """

    path: str
    default: Any
    kind: Kind
    meaning: str
    changeable: bool = False
    unused: tuple[Rule, ...] = ()
    overrides: str = ""

    @property
    def section(self) -> str:
        """The names of its sections, such as data.views; "" for none."""
        return self.path.rpartition(".")[0]

    @property
    def name(self) -> str:
        """The name within its section."""
        return self.path.rpartition(".")[2]


def field(
    path: str,
    default: Any,
    kind: Kind,
    meaning: str,
    *,
    changeable: bool = False,
    unused: Rule | Sequence[Rule] = (),
    overrides: str = "",
) -> Any:
    """Declares a config field: a `dataclasses.field` that carries a `Field`."""
    rules = (unused,) if callable(unused) else tuple(unused)
    declared = Field(path, default, kind, meaning, changeable, rules, overrides)
    if isinstance(kind, Mapped):
        return dataclasses.field(default_factory=dict, metadata={_KEY: declared})
    return dataclasses.field(default=default, metadata={_KEY: declared})


def fields_of(cls: type) -> dict[str, Field]:
    """Returns the config fields that a dataclass declares, by attribute."""
    members = dataclasses.fields(cls)
    return {member.name: member.metadata[_KEY] for member in members if _KEY in member.metadata}


def build(cls: type[_T], values: Values, **members: Any) -> _T:
    """Builds a dataclass from the values of a config.

    Args:
      cls: a dataclass that declares config fields.
      values: the config's values.
      **members: attributes that are no config fields, or that replace the config's value.
    """
    declared = {
        name: field.kind.value(values[field.path])
        for name, field in fields_of(cls).items()
        if name not in members
    }
    return cls(**declared, **members)


def check(instance: Any) -> None:
    """Raises an InputError for the first attribute that its declaration does not allow."""
    for name, declared in fields_of(type(instance)).items():
        fault = declared.kind.fault(declared.path, getattr(instance, name))
        if fault and not isinstance(declared.kind, Mapped):
            raise errors.InputError(fault)


def described(cls: type[_T]) -> type[_T]:
    """Adds the meaning of each declared field to the Attributes of a dataclass's docstring."""
    text, raises, errors_raised = inspect.cleandoc(cls.__doc__ or "").partition("\n\nRaises:")
    head, _, others = text.partition("\n\nAttributes:\n")
    lines = [
        textwrap.fill(f"{name}: {field.meaning}", 98, initial_indent="  ", subsequent_indent="    ")
        for name, field in fields_of(cls).items()
    ]
    listed = "\n".join(filter(None, [*lines, others]))
    cls.__doc__ = f"{head}\n\nAttributes:\n{listed}{raises}{errors_raised}"
    return cls
