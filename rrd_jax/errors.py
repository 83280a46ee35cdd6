"""Why a run can end early without a bug in it; programs print these errors as one line."""

import contextlib
import difflib
import json
import operator
import os
import pathlib
import sys
import traceback
from collections.abc import Hashable, Iterable, Iterator, Mapping
from numbers import Real
from typing import Any

_SMALLEST, _LARGEST = 1.2e-38, 3.4e38  # of float32
_MANY, _FEW = 60, 12  # names that are listed in a line, and how many of more than that
_REAL = tuple("fiuV")  # kinds of NumPy's types
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class InputError(ValueError):
    """A wrong config, file or shape. The message is one line and names the way out."""


class UserCodeError(InputError):
    """An exception of a user's own code: the message holds the traceback of that code."""


class DiskError(InputError):
    """A disk or folder does not take what is written to it; nothing that was saved is lost."""


class InUseError(InputError):
    """Another process works in a folder."""


class UnavailableError(InputError):
    """A platform, device or library that was asked for is not on this machine."""


class UnfitError(InputError):
    """A format of files cannot hold a network, however often it is tried."""


class DivergedError(RuntimeError):
    """The loss or the state is no longer finite."""


class LostError(RuntimeError):
    """A device or another process is gone in the middle of a run: start the same command again."""


class PreemptedError(RuntimeError):
    """The machine is being taken away; the state is saved."""


class UnreadError(Exception):
    """Nobody reads what the program prints any more, as after `| head -1`: it ends quietly."""


@contextlib.contextmanager
def user_code(doing: str, subject: str) -> Iterator[None]:
    """Reports exceptions of a user's code that runs inside the `with` block.

    Ctrl-C passes. So do errors of this module that say more than InputError does.

    Args:
      doing: such as "calling".
      subject: whose code it is, such as "network 'my_nets:Small'".

    Raises:
      UserCodeError: the code raised, or tried to exit; `__cause__` is its exception.
      InputError: the code raised an InputError; the message names the subject.
    """
    try:
        yield
    except InputError as error:
        if type(error) is not InputError or subject in str(error):
            raise
        raise InputError(f"{subject}: {error}") from error
    except (Exception, SystemExit) as error:
        text = user_traceback(error)
        raise UserCodeError(f"{doing} {subject} failed:\n{text}") from error


def user_traceback(error: BaseException) -> str:
    """Returns the traceback of an exception, reduced to the frames of the user's own code.

    Frames of rrd_jax, of installed packages and of Python's library are left out. Where there are
    no others, the last frame stays, unless it is one of rrd_jax.
    """
    report = traceback.TracebackException.from_exception(error)
    frames = report.stack
    _keep_user_frames(report)
    if not report.stack and frames and not frames[-1].filename.startswith((_PACKAGE, "<frozen")):
        report.stack = traceback.StackSummary.from_list(frames[-1:])
    return "".join(report.format()).rstrip()


def _keep_user_frames(report: traceback.TracebackException) -> None:
    """Reduces the report of an exception, and of those that it is chained to, in place."""
    kept = [frame for frame in report.stack if is_user_file(frame.filename)]
    report.stack = traceback.StackSummary.from_list(kept) if kept else None
    # JAX adds a note when it has removed frames itself.
    report.__notes__ = [n for n in report.__notes__ or () if "removed its internal" not in n]
    for name in ("__cause__", "__context__"):
        if chained := getattr(report, name):
            _keep_user_frames(chained)
            if not chained.stack:
                setattr(report, name, None)


def is_user_file(name: str) -> bool:
    """Returns True for a file outside of rrd_jax, the installed packages and Python's library."""
    excluded = _PACKAGE, os.path.dirname(os.__file__), "<frozen"
    return not name.startswith(excluded) and "site-packages" not in name


def printable(text: str) -> str:
    """Text of files and folders on one line: what a terminal would obey is spelled out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def read_json(path: pathlib.Path) -> Any:
    """What a JSON file holds; raises an OSError, or a ValueError for anything that is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def lookup(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    """Returns `known[name]`, or raises an InputError that lists what is known."""
    if isinstance(name, Hashable) and name in known:
        return known[name]
    raise InputError(f"unknown {kind} '{name}'; {hint(name, known)}known: {name_list(known, name)}")


def name_list(known: Iterable[str], near: str = "") -> str:
    """Known names in a line: all, or of many those that are closest to a name, or the first."""
    names = list(known)
    if len(names) <= _MANY:
        return ", ".join(names)
    close = difflib.get_close_matches(str(near), names, n=_FEW, cutoff=0) if near else names[:_FEW]
    return f"{', '.join(filter(close.__contains__, names))} and {len(names) - _FEW} more"


def hint(name: str, known: Iterable[str]) -> str:
    """The question whether the closest of the known names was meant; "" where none is close."""
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean '{close[0]}'? " if close else ""


def check_positive(**values: Any) -> None:
    """Raises an InputError for the first value that is no finite float32 above zero.

    Arrays pass that are traced: they are not known before the program runs.
    """
    for name, value in values.items():
        if is_traced(value) and not value.shape:
            continue
        if hasattr(value, "aval") and not value.shape:
            value = value.item()
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not (is_number and 0 < value < float("inf")):
            raise InputError(f"{name} is {value!r}, but must be a finite number above 0")
        if not _SMALLEST <= value <= _LARGEST:
            raise InputError(
                f"{name} is {value!r}, but must be from {_SMALLEST:g} to {_LARGEST:g}, as float32"
                " holds it"
            )


def check_counts(**values: Any) -> None:
    """Raises an InputError for the first value that is no whole number above zero."""
    for name, value in values.items():
        if not is_whole(value) or value < 1:
            raise InputError(f"{name} is {value!r}, but must be a whole number above 0")


def is_whole(value: Any) -> bool:
    """Whether it is a whole number: Python's, NumPy's, or an array of one that is known."""
    try:
        return (
            not isinstance(value, bool) and not is_traced(value) and operator.index(value) == value
        )
    except TypeError:
        return False


def is_traced(value: Any) -> bool:
    """Whether it is an array of a program that JAX only compiles, whose values are not known."""
    jax = sys.modules.get("jax")  # which programs import late
    return jax is not None and isinstance(value, jax.core.Tracer)


def check_arrays(**values: Any) -> None:
    """Raises an InputError for the first value that is no array of real numbers."""
    for name, value in values.items():
        if not hasattr(value, "shape") or not hasattr(value, "dtype"):
            raise InputError(f"{name} is of type {type(value).__name__}, but must be an array")
        # The kind of bfloat16 is V, as that of records, which have names.
        if getattr(value.dtype, "kind", "") not in _REAL or getattr(value.dtype, "names", None):
            raise InputError(f"{name} is an array of {value.dtype}, but must be of real numbers")
