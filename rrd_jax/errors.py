"""Why a run can end early without a bug in it; programs print these errors as one line."""

import difflib
import json
import pathlib
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any


class InputError(ValueError):
    """A wrong config, file or shape. The message is one line and names the way out."""


class DiskError(InputError):
    """A disk or folder does not take what is written to it; nothing that was saved is lost."""


class UnavailableError(InputError):
    """A platform, device or library that was asked for is not on this machine."""


class DivergedError(RuntimeError):
    """The loss or the state is no longer finite."""


class LostError(RuntimeError):
    """A device or another process is gone in the middle of a run: start the same command again."""


class PreemptedError(RuntimeError):
    """The machine is being taken away; the state is saved."""


class UnreadError(Exception):
    """Nobody reads what the program prints any more, as after `| head -1`: it ends quietly."""


def read_json(path: pathlib.Path) -> Any:
    """What a JSON file holds; raises an OSError, or a ValueError for anything that is not JSON."""
    try:
        return json.loads(path.read_text())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def lookup(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    """Returns `known[name]`, or raises an InputError that lists what is known."""
    if name in known:
        return known[name]
    raise InputError(f"unknown {kind} '{name}'; {hint(name, known)}known: {', '.join(known)}")


def hint(name: str, known: Iterable[str]) -> str:
    """The question whether the closest of the known names was meant; "" where none is close."""
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean '{close[0]}'? " if close else ""


def check_positive(**values: float) -> None:
    """Raises an InputError for the first value that is no number above zero and finite.

    Arrays pass: traced ones are not known before the program runs.
    """
    for name, value in values.items():
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not (hasattr(value, "aval") or (is_number and 0 < value < float("inf"))):
            raise InputError(f"{name} is {value!r}, but must be a finite number above 0")
