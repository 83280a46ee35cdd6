"""Rules for unused fields: each returns the reason, or "" if the field is used."""

from typing import Any

from rrd_jax.settings.declarations import Field, Rule
from rrd_jax.settings.values import Values


def unless(path: str, *allowed: Any) -> Rule:
    """Returns a rule: the field is used only for some values of another field.

    Args:
      path: path of the other field.
      *allowed: values of the other field for which the field is used; by default all values
        except False, 0, None and empty ones.
    """

    def rule(values: Values) -> str:
        value = values[path]
        is_used = value in allowed if allowed else not _is_off(value)
        return "" if is_used else f"{values.labelled(path)} is {_in_words(value)}"

    return rule


def first_reason(field: Field, values: Values) -> str:
    """Returns the reason why a field is unused; "" if it is used."""
    return next(filter(None, (rule(values) for rule in field.unused)), "")


def _is_off(value: Any) -> bool:
    return not (any(value) if isinstance(value, list | tuple) else value)


def _in_words(value: Any) -> str:
    if isinstance(value, list | tuple) and len(value):
        return "all 0" if _is_off(value) else str(value)
    if isinstance(value, str | list | tuple):
        return str(value) if value else "empty"
    return str(value) if value is None or isinstance(value, bool) else f"{value:g}"
