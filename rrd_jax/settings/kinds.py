"""Kinds of config fields: checks of their values, and descriptions for messages."""

import ast
import dataclasses
import inspect
import itertools
import math
import numbers
import re
import reprlib
import typing
from collections.abc import Callable, Mapping
from typing import Any

from rrd_jax import errors, imports, user_paths

# The value of a field that is chosen at the start of a run.
AUTO = "auto"
# The color that stands for dropped transparency, and the colors with a name.
NO_COLOR = "none"
_COLORS = {"white": "#ffffff", "black": "#000000"}
_NAMES = {code: name for name, code in _COLORS.items()}
# The largest int32.
LARGEST = 2**31 - 1
# The size of an axis of a mesh that has the devices that the other axis leaves.
REST = -1
# The largest whole number of a field that can also be a share.
_LARGEST_COUNT = 10**8
# The square of this temperature times the rounding error of a divergence is 0.001.
_HIGHEST_TEMPERATURE = 100.0
# The smallest differences from 0, and from 1 downwards, that float32 can represent.
_SMALLEST, _ROUNDING = 1.2e-38, 2.0**-25
# The constructor of Repr takes no arguments in Python 3.11.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def short_repr(value: Any) -> str:
    """Returns the `repr` of a value for messages, on one line and abbreviated."""
    # The text of a ConfigDict has several lines.
    value = dict(value.items()) if hasattr(value, "items") else value
    try:
        return " ".join(_SHORT.repr(value).split())
    except ValueError:
        # Python does not convert integers of more than 4300 digits to text.
        return "an integer of more than 4300 digits"


def is_auto(value: Any) -> bool:
    """Returns True for the text "auto"."""
    return isinstance(value, str) and value == AUTO


class Kind:
    """The set of values that a field can have.

    `str` of a kind completes the sentence "VALUE, but must be ...".

    Attributes:
      type: type of the values in a ConfigDict, by which ml_collections parses the command line.
      words: the result of `str`.
      parser: a function that raises an error for a text that the command line cannot convert to the
        type; the range does not matter.
      form: a function that converts an accepted value to the form that dataclasses hold.
    """

    type: type = object
    words: str = ""
    parser: Callable[[str], Any] = str
    form: Callable[[Any], Any] | None = None

    def accepts(self, value: Any) -> bool:
        """Returns True if a field can have the value."""
        raise NotImplementedError

    def reads(self, text: str) -> bool:
        """Returns True if the command line can convert a text to the type, in range or not."""
        try:
            self.parser(text)
        except Exception:
            # literal_eval raises many types of errors, including RecursionError.
            return False
        return True

    def value(self, raw: Any) -> Any:
        """Returns an accepted value in the form that dataclasses hold."""
        return self.form(raw) if self.form else raw

    def problem(self, path: str, value: Any) -> str:
        """Returns the error message for an invalid value of a field; "" for a valid value."""
        return "" if self.accepts(value) else f"{path} is {short_repr(value)}, but must be {self}"

    def __str__(self) -> str:
        return self.words


@dataclasses.dataclass(frozen=True)
class Integer(Kind):
    """A whole number in a range."""

    minimum: int = -LARGEST
    maximum: int = LARGEST
    type = parser = int

    def accepts(self, value: Any) -> bool:
        """Implements `Kind.accepts`."""
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
        """Implements `Kind.accepts`."""
        if not isinstance(value, numbers.Real) or isinstance(value, bool):
            return False
        return (
            -math.inf < value < math.inf
            and (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
            and (self.above is None or value > self.above + _SMALLEST)
            and (self.below is None or value < self.below - _ROUNDING)
        )

    def problem(self, path: str, value: Any) -> str:
        """Implements `Kind.problem`."""
        problem = super().problem(path, value)
        is_rounded = problem and isinstance(value, float) and self.above != value != self.below
        near = (self.above, 2 * _SMALLEST), (self.below, 2 * _ROUNDING)
        if is_rounded and any(end is not None and abs(value - end) < eps for end, eps in near):
            return f"{problem}, in float32"
        return problem

    def __str__(self) -> str:
        has_minimum = self.minimum is not None
        bounds = (
            ("above", self.above),
            ("from", self.minimum),
            ("to" if has_minimum else "and at most", self.maximum),
            ("to below" if has_minimum else "and below", self.below),
        )
        limits = [f"{word} {bound:g}" for word, bound in bounds if bound is not None]
        return " ".join(["a number", *limits])


@dataclasses.dataclass(frozen=True)
class ShareOrCount(Real):
    """A share in (0, 1), or a whole number from 1; 0 for none."""

    def accepts(self, value: Any) -> bool:
        """Implements `Kind.accepts`."""
        if not isinstance(value, numbers.Real) or isinstance(value, bool):
            return False
        return 0 <= value < 1 or (1 <= value <= _LARGEST_COUNT and value == int(value))

    def __str__(self) -> str:
        return f"a share from 0 to below 1, or a whole number from 1 to {_LARGEST_COUNT}"


@dataclasses.dataclass(frozen=True)
class Flag(Kind):
    """A boolean."""

    type = bool
    words = "True or False"
    parser = staticmethod(lambda text: ("true", "false", "1", "0", "t", "f").index(text.lower()))

    def accepts(self, value: Any) -> bool:
        """Implements `Kind.accepts`."""
        return isinstance(value, bool)


@dataclasses.dataclass(frozen=True)
class Text(Kind):
    """A string of fewer than 4096 printable characters on one line."""

    type = str
    words = "text on one line, with printable characters only"

    def accepts(self, value: Any) -> bool:
        """Implements `Kind.accepts`."""
        return isinstance(value, str) and value.isprintable() and len(value) < 4096


@dataclasses.dataclass(frozen=True)
class Path(Text):
    """The path of a file or folder on this machine, or a name; ~ stands for the home folder.

    Attributes:
      bucket: whether the URL of a bucket is accepted.
      repository: whether the name of a repository of the Hugging Face Hub is accepted.
    """

    bucket: bool = False
    repository: bool = False
    words = "a path on one line, with printable characters only"

    def accepts(self, value: Any) -> bool:
        """Implements `Kind.accepts`."""
        return super().accepts(value) and not self._reason(value)

    def problem(self, path: str, value: Any) -> str:
        """Implements `Kind.problem`."""
        if not super().accepts(value):
            return super().problem(path, value)
        reason = self._reason(value)
        return f"{path} is {short_repr(value)}, {reason}" if reason else ""

    def _reason(self, value: str) -> str:
        """Returns why a text cannot be a path of this kind; "" if it can."""
        return user_paths.problem(value, bucket=self.bucket, repository=self.repository)

    def value(self, raw: Any) -> Any:
        """Implements `Kind.value`."""
        return user_paths.expanded(raw)


@dataclasses.dataclass(frozen=True)
class Choice(Kind):
    """A name from a list."""

    names: tuple[str, ...]
    type = str

    def accepts(self, value: Any) -> bool:
        """Implements `Kind.accepts`."""
        return isinstance(value, str) and value in self.names

    def problem(self, path: str, value: Any) -> str:
        """Implements `Kind.problem`."""
        if not isinstance(value, str) or self.accepts(value):
            return super().problem(path, value)
        hint = errors.hint(value, self.names)
        names = ", ".join(filter(None, self.names))
        return f"unknown {path} {short_repr(value)}; {hint}known: {names}"

    def __str__(self) -> str:
        return f"one of {', '.join(name or repr(name) for name in self.names)}"


class Names(Kind):
    """A tuple of different names from a list; on the command line, names separated by commas.

    Args:
      names: the list.
    """

    type = tuple

    def __init__(self, names: tuple[str, ...]):
        self.names = names

    def _split(self, raw: Any) -> list[Any]:
        parts = [raw] if isinstance(raw, str) else list(raw)
        return [n.strip() for part in parts for n in part.split(",")] if _all_text(parts) else parts

    def accepts(self, value: Any) -> bool:
        """Implements `Kind.accepts`."""
        return not self.problem("", value)

    def value(self, raw: Any) -> Any:
        """Implements `Kind.value`."""
        return tuple(name for name in self._split(raw) if name)

    def problem(self, path: str, value: Any) -> str:
        """Implements `Kind.problem`."""
        if not isinstance(value, str | tuple | list) or not _all_text(self._split(value)):
            return f"{path} is {short_repr(value)}, but must be {self}"
        chosen = self.value(value)
        for name in chosen:
            if problem := Choice(self.names).problem(path, name):
                return problem
        if repeated := next((name for name in chosen if chosen.count(name) > 1), ""):
            return f"{path} names {repeated} twice; name it once"
        return ""

    def __str__(self) -> str:
        return f"names from {', '.join(self.names)}, separated by commas, or ()"


def _all_text(parts: list[Any]) -> bool:
    return all(isinstance(part, str) for part in parts)


class Color(Kind):
    """A color behind transparent pixels, or "none" to drop transparency."""

    type = str
    form = staticmethod(lambda text: _NAMES.get(text.lower(), text.lower()))
    words = "white, black, a color such as #808080, or none"

    def accepts(self, value: Any) -> bool:
        """Implements `Kind.accepts`."""
        return isinstance(value, str) and (value.lower() == NO_COLOR or self.rgb(value) is not None)

    @staticmethod
    def rgb(text: str) -> tuple[int, int, int] | None:
        """Returns the red, green and blue of a color, 0 to 255; None for other text."""
        code = re.fullmatch("#([0-9a-f]{6})", _COLORS.get(text.lower(), text.lower()))
        return tuple(bytes.fromhex(code[1])) if code else None


@dataclasses.dataclass(frozen=True)
class Numbers(Kind):
    """A tuple of numbers.

    Attributes:
      part: the kind of each number.
      lengths: the allowed lengths; empty for any length.
      ascending: whether the numbers must be in ascending order.
      unit: words after "numbers" in messages, such as their unit.
    """

    part: Real
    lengths: tuple[int, ...] = ()
    ascending: bool = False
    unit: str = ""
    type = form = tuple
    parser = staticmethod(ast.literal_eval)

    def accepts(self, value: Any) -> bool:
        """Implements `Kind.accepts`."""
        return not self.problem("", value)

    def problem(self, path: str, value: Any) -> str:
        """Implements `Kind.problem`."""
        problem = f"{path} is {short_repr(value)}, but must be {self}"
        if not isinstance(value, tuple | list):
            return problem
        for i, part in enumerate(value):
            if not self.part.accepts(part):
                return f"{path}[{i}] is {short_repr(part)}, but {path} must be {self}"
        has_wrong_length = self.lengths and len(value) not in self.lengths
        descends = self.ascending and any(a >= b for a, b in itertools.pairwise(value))
        return problem if has_wrong_length or descends else ""

    def __str__(self) -> str:
        count = f"{' or '.join(map(str, self.lengths))} " if self.lengths else ""
        order = " in ascending order" if self.ascending else ""
        part = str(self.part).removeprefix("a number")
        noun = "number" if self.lengths == (1,) else "numbers"
        limits = part if self.lengths == (1,) else f", each{part}"
        return f"a tuple of {count}{noun}{self.unit}{order}{limits}"


@dataclasses.dataclass(frozen=True)
class Optional(Kind):
    """A value of another kind, or None."""

    kind: Kind

    @property
    def type(self) -> type:
        """The type of the other kind's values."""
        return self.kind.type

    def accepts(self, value: Any) -> bool:
        """Implements `Kind.accepts`."""
        return value is None or self.kind.accepts(value)

    def reads(self, text: str) -> bool:
        """Implements `Kind.reads`."""
        return self.kind.reads(text)

    def value(self, raw: Any) -> Any:
        """Implements `Kind.value`."""
        return None if raw is None else self.kind.value(raw)

    def __str__(self) -> str:
        return f"{self.kind}, or None"


@dataclasses.dataclass(frozen=True)
class Auto(Kind):
    """A value of another kind, or "auto" for a value that is chosen at the start of a run.

    The default of such a field is "auto"; see `settings.field` for how the value is chosen.
    """

    kind: Kind

    @property
    def type(self) -> type:
        """`str` for text; otherwise `object`, for which the command line reads a literal."""
        return str if self.kind.type is str else object

    def accepts(self, value: Any) -> bool:
        """Implements `Kind.accepts`."""
        return is_auto(value) or self.kind.accepts(value)

    def reads(self, text: str) -> bool:
        """Implements `Kind.reads`."""
        return is_auto(text) or self.kind.reads(text)

    def value(self, raw: Any) -> Any:
        """Implements `Kind.value`; numbers become Python numbers."""
        value = raw if is_auto(raw) else self.kind.value(raw)
        is_number = self.kind.type in (int, float) and not is_auto(raw)
        return self.kind.type(value) if is_number else value

    def problem(self, path: str, value: Any) -> str:
        """Implements `Kind.problem`."""
        problem = "" if is_auto(value) else self.kind.problem(path, value)
        return problem and f"{problem}, or {AUTO}"

    def __str__(self) -> str:
        return f"{self.kind}, or {AUTO}"


@dataclasses.dataclass(frozen=True)
class Mapped(Kind):
    """Options by name, which are checked against the signature of the function that takes them."""

    words = "options by name"
    parser = staticmethod(lambda text: dict(ast.literal_eval(text)))
    form = dict

    def accepts(self, value: Any) -> bool:
        """Implements `Kind.accepts`."""
        return _is_mapping(value) and _has_names(value)


@dataclasses.dataclass(frozen=True)
class Axes(Text):
    """Axes of a mesh with their sizes, such as data:8,model:4, as ((name, size), ...)."""

    names: tuple[str, ...]

    def accepts(self, value: Any) -> bool:
        """Implements `Kind.accepts`."""
        return super().accepts(value) and not self._problem(value)

    def problem(self, path: str, value: Any) -> str:
        """Implements `Kind.problem`."""
        if not super().accepts(value):
            return super().problem(path, value)
        problem = self._problem(value)
        return f"{path} is {short_repr(value)}, {problem}; set it to {self}" if problem else ""

    def value(self, raw: Any) -> tuple[tuple[str, int], ...]:
        """Implements `Kind.value`."""
        parts = (part.strip().partition(":") for part in raw.split(","))
        return tuple((name.strip(), int(size or REST)) for name, _, size in parts)

    def _problem(self, text: str) -> str:
        """Returns what is wrong with a text; "" for a valid text."""
        axes = [part.strip().partition(":") for part in text.split(",")]
        names = [name.strip() for name, _, _ in axes]
        if unknown := [name for name in names if name not in self.names]:
            return f"but {unknown[0]!r} is not an axis"
        if len(set(names)) < len(names):
            return "which has an axis twice"
        if invalid := [size for _, colon, size in axes if colon and not _is_size(size)]:
            return f"but {invalid[0]!r} is not the size of an axis"
        if sum(int(size or REST) == REST for _, _, size in axes) > 1:
            return "which has two axes without a size"
        return ""

    def __str__(self) -> str:
        sizes = ",".join(f"{name}:SIZE" for name in self.names)
        return f"{sizes}, where one size may be missing or {REST} for all other devices"


def _is_size(text: str) -> bool:
    return re.fullmatch(rf" *(?:{REST}|[1-9][0-9]{{0,8}}) *", text, re.ASCII) is not None


# Kinds that several fields share.
COUNT = Integer(1)
SEED = Integer(0, LARGEST)
# Smaller images leave no pixels for batch norms; OpenCV cannot resize to larger ones.
PIXELS = Integer(4, 32767)
RATE = Real(above=0, maximum=1e6)
AMOUNT = Real(above=0, maximum=1e9)
FACTOR = Real(above=0, maximum=1)
PART = Real(minimum=0, below=1)
CHANCE = Real(minimum=0, maximum=1)
RATIO = Real(minimum=1, maximum=1e6)
MEAN = Numbers(CHANCE, lengths=(1, 3))
STD = Numbers(Real(minimum=1e-4, maximum=1), lengths=(1, 3))
_KINDS_BY_TYPE: dict[type, Kind] = {
    bool: Flag(),
    int: Integer(0),
    float: Real(minimum=-1e6, maximum=1e6),
    str: Text(),
    tuple: Numbers(Real()),
}


def kind_of(option: inspect.Parameter) -> Kind | None:
    """Returns the kind of a built-in objective's option, from its annotation and default.

    Whole numbers are at least 0, real numbers at most a million in magnitude, and temperatures in a
    range in which float32 neither overflows nor rounds to 0. The factory checks further limits.
    Returns None if the annotation is not a simple type.
    """
    if is_auto(option.default):
        return Auto(COUNT)
    kind = _KINDS_BY_TYPE.get(imports.option_type(option) or object)
    if "temperature" in option.name:
        limits = Real(minimum=1e-4, maximum=_HIGHEST_TEMPERATURE)
        kind = Numbers(limits) if isinstance(kind, Numbers) else limits
    is_open = option.default is None or type(None) in typing.get_args(option.annotation)
    return Optional(kind) if kind and is_open else kind


def _is_mapping(value: Any) -> bool:
    """Returns True for a mapping or a ConfigDict, which is not a `Mapping`."""
    return isinstance(value, Mapping) or (hasattr(value, "items") and not isinstance(value, type))


def _has_names(value: Any) -> bool:
    """Returns True if all keys of a tree are strings, so that it can be stored as JSON."""
    if _is_mapping(value):
        return all(isinstance(key, str) and _has_names(part) for key, part in value.items())
    return not isinstance(value, list | tuple) or all(map(_has_names, value))
