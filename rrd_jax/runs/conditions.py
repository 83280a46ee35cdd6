"""What --where asks: method=rrd and (seed<3 or top1>97).

    condition   = comparison, joined by `and`, `or`, `not` and parentheses
    comparison  = NAME = VALUE, !=, <, <=, >, >=, or ~ for "has in it"

A name is that of a column, a config field or a metric. Numbers are compared as numbers, everything
else as text; `*` and `?` in a text stand for any characters. A value with blanks or parentheses is
put in quotes.
"""

import fnmatch
import operator
import re
from collections.abc import Callable
from typing import Any

from rrd_jax import errors
from rrd_jax.runs.columns import Column, Names
from rrd_jax.runs.reading import Run

Condition = Callable[[Run], bool]

_TOKEN = re.compile(r"""\s*("[^"]*"|'[^']*'|[()]|!=|<=|>=|==|[=<>~]|[^\s()=<>!~"']+)""")
_ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_SIGNS = ("=", "==", "!=", "~", *_ORDERS)
_WORDS = ("and", "or", "not")
_CONSTANTS = {"none": None, "null": None, "true": True, "false": False}
_EXAMPLE = "write it as in --where='method=rrd and seed<3'"


def parse(text: str, names: Names) -> Condition:
    """The condition that a text states; raises an InputError where it states none."""
    try:
        return _Parser(text, names).whole()
    except RecursionError as error:
        raise errors.InputError("--where is nested too deeply") from error


class _Parser:
    def __init__(self, text: str, names: Names):
        self._text, self._names = text, names
        self._tokens: list[str] = []
        place = 0
        while text[place:].strip():
            token = _TOKEN.match(text, place)
            if not token:
                raise self._error(f"what '{text[place:].strip()}' means is not known")
            self._tokens.append(token[1])
            place = token.end()

    def whole(self) -> Condition:
        condition = self._either()
        if self._tokens:
            raise self._error(f"'{self._tokens[0]}' does not follow from what is before it")
        return condition

    def _either(self) -> Condition:
        parts = [self._both()]
        while self._takes("or"):
            parts.append(self._both())
        return lambda run: any(part(run) for part in parts)

    def _both(self) -> Condition:
        parts = [self._one()]
        while self._takes("and"):
            parts.append(self._one())
        return lambda run: all(part(run) for part in parts)

    def _one(self) -> Condition:
        if self._takes("not"):
            condition = self._one()
            return lambda run: not condition(run)
        if self._takes("("):
            condition = self._either()
            if not self._takes(")"):
                raise self._error("a ')' is missing")
            return condition
        name = self._next("the name of a column")
        if name in (*_SIGNS, *_WORDS, ")"):
            raise self._error(f"there is no name before '{name}'")
        sign = self._next(f"a comparison of '{name}'")
        if sign not in _SIGNS:
            raise self._error(f"'{name}' is followed by '{sign}', and not by {' '.join(_SIGNS)}")
        value = self._next(f"a value behind '{name}{sign}'")
        if value in ("(", ")", *_SIGNS):
            raise self._error(f"there is no value behind '{name}{sign}'")
        return _comparison(self._names.column(_unquoted(name)), sign, value)

    def _takes(self, token: str) -> bool:
        if self._tokens and self._tokens[0].lower() == token:
            self._tokens.pop(0)
            return True
        return False

    def _next(self, what: str) -> str:
        if not self._tokens:
            raise self._error(f"it ends where {what} is missing")
        return self._tokens.pop(0)

    def _error(self, reason: str) -> errors.InputError:
        return errors.InputError(f"--where='{self._text}' cannot be read: {reason}; {_EXAMPLE}")


def _unquoted(token: str) -> str:
    return token[1:-1] if token[0] in "\"'" else token


def _comparison(column: Column, sign: str, token: str) -> Condition:
    text = _unquoted(token)
    number = _number(text, column.units)
    if column.choices and sign in ("=", "==", "!=") and not _choice(text, column.choices):
        raise errors.InputError(
            f"{column.name} is never '{text}'; {errors.hint(text, column.choices)}known:"
            f" {', '.join(column.choices)}"
        )

    def holds(value: Any) -> bool:
        if sign in ("=", "=="):
            return _equal(value, text, number)
        if sign == "~":
            return value is not None and text.lower() in str(value).lower()
        if value is None or isinstance(value, bool):
            return False
        if isinstance(value, int | float):
            if number is None:
                raise errors.InputError(
                    f"{column.name} is a number ({value:g} in one run), and '{text}' is none"
                )
            return _ORDERS[sign](value, number)
        return _ORDERS[sign](str(value), text)

    def condition(run: Run) -> bool:
        value = column.value(run)
        values = value if isinstance(value, list) and value else [value]
        if sign == "!=":
            return not any(_equal(value, text, number) for value in values)
        return any(map(holds, values))

    return condition


def _choice(text: str, choices: tuple[str, ...]) -> bool:
    return any(_equal(choice, text, None) for choice in choices)


def _equal(value: Any, text: str, number: float | None) -> bool:
    if value is None or isinstance(value, bool):
        return text.lower() in _CONSTANTS and _CONSTANTS[text.lower()] is value
    if isinstance(value, int | float):
        return number is not None and value == number
    # Brackets are not those of a pattern: data.train_split=train[:200].
    return fnmatch.fnmatchcase(str(value), text.replace("[", "[[]"))


def _number(text: str, units: dict[str, float]) -> float | None:
    found = re.fullmatch(r"(.*?)\s*([a-zA-Z]*)", text)
    scale = {name.lower(): factor for name, factor in units.items()}.get(found[2].lower())
    try:
        return float(text) if scale is None else float(found[1]) * scale
    except ValueError:
        return None
