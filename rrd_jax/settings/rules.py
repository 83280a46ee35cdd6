"""Rules for fields without effect: each returns the reason, or "" if the field has an effect."""

from typing import Any

from rrd_jax.settings.declarations import Field, Rule
from rrd_jax.settings.values import Values


def unless(path: str, *allowed: Any) -> Rule:
    """Returns the rule of a field that is used only for some values of another field.

    Args:
      path: the other field.
      *allowed: its values for which the field is used; none for all but False, 0 and empty ones.
    """

    def rule(values: Values) -> str:
        value = values[path]
        is_used = value in allowed if allowed else not _is_off(value)
        return "" if is_used else f"{values.labelled(path)} is {_in_words(value)}"

    return rule


def first_reason(field: Field, values: Values) -> str:
    """Returns why a field has no effect; "" if it has one."""
    return next(filter(None, (rule(values) for rule in field.unused)), "")


def _is_off(value: Any) -> bool:
    return not (any(value) if isinstance(value, list | tuple) else value)


def _in_words(value: Any) -> str:
    if isinstance(value, list | tuple) and len(value):
        return "all 0" if _is_off(value) else str(value)
    if isinstance(value, str | list | tuple):
        return str(value) if value else "empty"
    return str(value) if value is None or isinstance(value, bool) else f"{value:g}"
