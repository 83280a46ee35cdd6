"""Kinds of config fields: the values that a field can have, as a check and in words."""

import ast
import dataclasses
import inspect
import itertools
import math
import numbers
import reprlib
import typing
from collections.abc import Callable, Mapping
from typing import Any

from rrd_jax import errors, imports

LARGEST = 2**31 - 1  # what 32 bits count
_HOTTEST = 100.0  # its square times the rounding of a divergence is 0.001
# What float32 tells from 0, and from 1 below it.
_SMALLEST, _ROUNDING = 1.2e-38, 2.0**-25
_SHORT = reprlib.Repr()  # of Python 3.11, which takes no arguments
_SHORT.maxstring = _SHORT.maxother = 60


def short_repr(value: Any) -> str:
    """A value as a message has it: in Python's notation, on one line, not long."""
    value = dict(value.items()) if hasattr(value, "items") else value  # a ConfigDict's has lines
    try:
        return " ".join(_SHORT.repr(value).split())
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number of thousands of digits"


class Kind:
    """The values that a field can have.

    `str` of a kind continues the sentence "but must be ...".

    Attributes:
      type: of its values in a ConfigDict, which reads the command line by it.
      words: what `str` returns.
      parser: raises an error for a text of which the command line can make no value, in range or
        not.
      form: makes of an accepted value the one that dataclasses hold.
    """

    type: type = object
    words: str = ""
    parser: Callable[[str], Any] = str
    form: Callable[[Any], Any] | None = None

    def accepts(self, value: Any) -> bool:
        """Returns True if a field can have that value."""
        raise NotImplementedError

    def reads(self, text: str) -> bool:
        """Returns True if the command line can make a value of the type, in range or not."""
        try:
            self.parser(text)
        except Exception:  # literal_eval has many, down to RecursionError
            return False
        return True

    def value(self, raw: Any) -> Any:
        """Returns an accepted value in the form in which dataclasses hold it."""
        return self.form(raw) if self.form else raw

    def fault(self, path: str, value: Any) -> str:
        """Returns what is wrong with the value of a field; "" for nothing."""
        return "" if self.accepts(value) else f"{path} is {short_repr(value)}, but must be {self}"

    def __str__(self) -> str:
        return self.words


@dataclasses.dataclass(frozen=True)
class Integer(Kind):
    """A whole number of a range."""

    minimum: int = -LARGEST
    maximum: int = LARGEST
    type = parser = int

    def accepts(self, value: Any) -> bool:
        """See Kind."""
        is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        return is_whole and self.minimum <= value <= self.maximum

    def __str__(self) -> str:
        return f"a whole number from {self.minimum} to {self.maximum}"


@dataclasses.dataclass(frozen=True)
class Real(Kind):
    """A finite number: at least `minimum`, greater than `above`, less than `below`, as float32."""

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    type = parser = float

    def accepts(self, value: Any) -> bool:
        """See Kind."""
        if not isinstance(value, numbers.Real) or isinstance(value, bool):
            return False
        return (
            -math.inf < value < math.inf
            and (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
            and (self.above is None or value > self.above + _SMALLEST)
            and (self.below is None or value < self.below - _ROUNDING)
        )

    def fault(self, path: str, value: Any) -> str:
        """See Kind."""
        said = super().fault(path, value)
        is_rounded = said and isinstance(value, float) and self.above != value != self.below
        near = (self.above, 2 * _SMALLEST), (self.below, 2 * _ROUNDING)
        if is_rounded and any(end is not None and abs(value - end) < eps for end, eps in near):
            return f"{said}, in float32"
        return said

    def __str__(self) -> str:
        bounds = (
            ("above", self.above),
            ("from", self.minimum),
            ("to", self.maximum),
            ("below", self.below),
        )
        said = [f"{word} {bound:g}" for word, bound in bounds if bound is not None]
        return " ".join(["a number", *said])


@dataclasses.dataclass(frozen=True)
class Flag(Kind):
    """True or False."""

    type = bool
    words = "True or False"
    parser = staticmethod(lambda text: ("true", "false", "1", "0", "t", "f").index(text.lower()))

    def accepts(self, value: Any) -> bool:
        """See Kind."""
        return isinstance(value, bool)


@dataclasses.dataclass(frozen=True)
class Text(Kind):
    """Text of printable characters, on one line."""

    type = str
    words = "text on one line, of printable characters"

    def accepts(self, value: Any) -> bool:
        """See Kind."""
        return isinstance(value, str) and value.isprintable() and len(value) < 4096


@dataclasses.dataclass(frozen=True)
class Choice(Kind):
    """A name of several."""

    names: tuple[str, ...]
    type = str

    def accepts(self, value: Any) -> bool:
        """See Kind."""
        return isinstance(value, str) and value in self.names

    def fault(self, path: str, value: Any) -> str:
        """See Kind."""
        if not isinstance(value, str) or self.accepts(value):
            return super().fault(path, value)
        hint = errors.hint(value, self.names)
        names = ", ".join(filter(None, self.names))
        return f"unknown {path} {short_repr(value)}; {hint}known: {names}"

    def __str__(self) -> str:
        return f"one of {', '.join(name or repr(name) for name in self.names)}"


@dataclasses.dataclass(frozen=True)
class Numbers(Kind):
    """A tuple of numbers; `unit` says of what."""

    part: Real
    lengths: tuple[int, ...] = ()  # none: any
    ascending: bool = False
    unit: str = ""
    type = form = tuple
    parser = staticmethod(ast.literal_eval)

    def accepts(self, value: Any) -> bool:
        """See Kind."""
        return not self.fault("", value)

    def fault(self, path: str, value: Any) -> str:
        """See Kind."""
        whole = f"{path} is {short_repr(value)}, but must be {self}"
        if not isinstance(value, tuple | list):
            return whole
        for i, part in enumerate(value):
            if not self.part.accepts(part):
                return f"{path}[{i}] is {short_repr(part)}, but {path} must be {self}"
        is_long = self.lengths and len(value) not in self.lengths
        descends = self.ascending and any(a >= b for a, b in itertools.pairwise(value))
        return whole if is_long or descends else ""

    def __str__(self) -> str:
        count = f"{' or '.join(map(str, self.lengths))} " if self.lengths else ""
        order = " in ascending order" if self.ascending else ""
        part = str(self.part).removeprefix("a number")
        return f"a tuple of {count}numbers{self.unit}{order}, each{part}"


@dataclasses.dataclass(frozen=True)
class Optional(Kind):
    """None, or what another kind accepts."""

    kind: Kind

    @property
    def type(self) -> type:
        """See Kind."""
        return self.kind.type

    def accepts(self, value: Any) -> bool:
        """See Kind."""
        return value is None or self.kind.accepts(value)

    def reads(self, text: str) -> bool:
        """See Kind."""
        return self.kind.reads(text)

    def value(self, raw: Any) -> Any:
        """See Kind."""
        return None if raw is None else self.kind.value(raw)

    def __str__(self) -> str:
        return f"{self.kind}, or None"


@dataclasses.dataclass(frozen=True)
class Mapped(Kind):
    """Options by name, which the function that takes them checks."""

    words = "options by name"
    parser = staticmethod(lambda text: dict(ast.literal_eval(text)))
    form = dict

    def accepts(self, value: Any) -> bool:
        """See Kind."""
        return _is_mapping(value) and _has_names(value)


# Kinds that several fields have.
COUNT = Integer(1)
SEED = Integer(0, LARGEST)
PIXELS = Integer(4, 32767)  # Fewer leave nothing to batch norms; OpenCV scales to no more.
RATE = Real(above=0, maximum=1e6)
AMOUNT = Real(above=0, maximum=1e9)
FACTOR = Real(above=0, maximum=1)
PART = Real(minimum=0, below=1)
CHANCE = Real(minimum=0, maximum=1)
RATIO = Real(minimum=1, maximum=1e6)
MEAN = Numbers(CHANCE, lengths=(1, 3))
STD = Numbers(Real(minimum=1e-4, maximum=1), lengths=(1, 3))
_OF_TYPES: dict[type, Kind] = {
    bool: Flag(),
    int: Integer(0),
    float: Real(minimum=-1e6, maximum=1e6),
    str: Text(),
    tuple: Numbers(Real()),
}


def of_option(option: inspect.Parameter) -> Kind | None:
    """The kind of an option of one of our objectives, from its annotation and its default.

    Counts are 0 or above, no number is beyond a million, and what is divided by a temperature stays
    within float32, and is more than its rounding; the factory knows more. None where its annotation
    says nothing.
    """
    kind = _OF_TYPES.get(imports.option_type(option) or object)
    if "temperature" in option.name:
        kind = Real(minimum=1e-4, maximum=_HOTTEST)
    is_open = option.default is None or type(None) in typing.get_args(option.annotation)
    return Optional(kind) if kind and is_open else kind


def _is_mapping(value: Any) -> bool:
    """Returns True for a mapping, or a ConfigDict, which is none of Python's."""
    return isinstance(value, Mapping) or (hasattr(value, "items") and not isinstance(value, type))


def _has_names(value: Any) -> bool:
    """Whether the keys of a tree are texts, as a workdir keeps them."""
    if _is_mapping(value):
        return all(isinstance(key, str) and _has_names(part) for key, part in value.items())
    return not isinstance(value, list | tuple) or all(map(_has_names, value))
