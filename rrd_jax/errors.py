"""Exceptions that programs report in one line, and checks of arguments."""

import contextlib
import difflib
import operator
import os
import re
import sys
import traceback
from collections.abc import Hashable, Iterable, Iterator, Mapping
from numbers import Real
from typing import Any

# The range of positive float32 numbers.
_SMALLEST, _LARGEST = 1.2e-38, 3.4e38
# The largest number of examples, classes and other counts.
_LARGEST_COUNT = 2**31 - 1
# A message lists up to _LIST_ALL names; of more names it lists _LIST_CLOSEST.
_LIST_ALL, _LIST_CLOSEST = 60, 12
# Names of environment variables whose values are never printed, and the length from which a value
# is replaced: shorter ones are parts of ordinary words.
_SECRET_NAME = re.compile("TOKEN|API_KEY|PASSWORD|SECRET|CREDENTIAL", re.IGNORECASE)
_SHORTEST_SECRET = 6
# NumPy's dtype kinds of real numbers.
_REAL = tuple("fiuV")
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class InputError(ValueError):
    """An invalid config, file or shape. The message is one line that ends with a remedy."""


class FieldError(InputError):
    """An invalid flag or config field, for which commands have a separate exit code."""


class UserCodeError(InputError):
    """An exception in a user's code. The message contains the traceback of that code."""


class DiskError(InputError):
    """A failed write, such as on a full disk. Files that were saved earlier are intact."""


class HubError(InputError):
    """A repository of the Hugging Face Hub that cannot be read or written."""


class InUseError(InputError):
    """A folder that another process is using."""


class UnavailableError(InputError):
    """A requested platform, device or library that this machine does not have."""


class UnfitError(InputError):
    """A network that a file format cannot represent."""


class DivergedError(RuntimeError):
    """A loss or a train state that is no longer finite."""


class LostError(RuntimeError):
    """A device or process that was lost during a run. Start the same command again to resume."""


class PreemptedError(RuntimeError):
    """A preemption of the machine. The state is saved, so that the run can be resumed."""


class BucketError(RuntimeError):
    """A bucket that cannot be reached or accessed, which a missing file must not be mistaken for.

    The message is one line that ends with a remedy. The class is neither an OSError nor a
    ValueError, because code that catches these treats the file as missing or damaged.
    """


class UnreadError(Exception):
    """A closed output pipe, as after `| head -1`. The program exits without a message."""


@contextlib.contextmanager
def field_errors() -> Iterator[None]:
    """Converts each InputError to a FieldError; subclasses of InputError pass through unchanged.

    The context surrounds code that only reads flags or config fields, without data or weights.
    """
    try:
        yield
    except InputError as error:
        if type(error) is not InputError:
            raise
        raise FieldError(str(error)) from error


@contextlib.contextmanager
def user_code(action: str, subject: str) -> Iterator[None]:
    """Reports exceptions of a user's code that runs inside the `with` block.

    KeyboardInterrupt and subclasses of InputError pass through unchanged.

    Args:
      action: the action, such as "calling".
      subject: the user's object, such as "network 'my_nets:Small'".

    Raises:
      UserCodeError: the code raised an exception, which becomes `__cause__`, or called `sys.exit`.
      InputError: the code raised an InputError; the new message starts with the subject.
    """
    try:
        yield
    except InputError as error:
        if type(error) is not InputError or subject in str(error):
            raise
        raise InputError(f"{subject}: {error}") from error
    except (Exception, SystemExit) as error:
        text = user_traceback(error)
        raise UserCodeError(f"{action} {subject} failed:\n{text}") from error


def user_traceback(error: BaseException) -> str:
    """Returns the traceback of an exception, reduced to frames of the user's code.

    Frames of rrd_jax, of installed packages and of the standard library are omitted. If no frame
    remains, the last one is kept, unless it belongs to rrd_jax.
    """
    report = traceback.TracebackException.from_exception(error)
    frames = report.stack
    _keep_user_frames(report)
    if not report.stack and frames and not frames[-1].filename.startswith((_PACKAGE, "<frozen")):
        report.stack = traceback.StackSummary.from_list(frames[-1:])
    return "".join(report.format()).rstrip()


def _keep_user_frames(report: traceback.TracebackException) -> None:
    """Reduces the reports of an exception and of its chained exceptions in place."""
    frames = [frame for frame in report.stack if is_user_file(frame.filename)]
    report.stack = traceback.StackSummary.from_list(frames) if frames else None
    # JAX adds a note about the frames that it removed.
    report.__notes__ = [n for n in report.__notes__ or () if "removed its internal" not in n]
    for name in ("__cause__", "__context__"):
        if chained := getattr(report, name):
            _keep_user_frames(chained)
            if not chained.stack:
                setattr(report, name, None)


def is_user_file(name: str) -> bool:
    """Returns True for a file outside rrd_jax, the installed packages and the standard library."""
    excluded = _PACKAGE, os.path.dirname(os.__file__), "<frozen"
    return not name.startswith(excluded) and "site-packages" not in name


def printable(text: str) -> str:
    """Returns text on one line, with control characters escaped, so that it is safe to print."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def redacted(text: str) -> str:
    """Returns text without tokens and passwords.

    Values of environment variables with names such as HF_TOKEN or WANDB_API_KEY, tokens of Hugging
    Face, values of an Authorization header, and passwords in URLs are replaced by ***.
    """
    secrets = [value for name, value in os.environ.items() if _SECRET_NAME.search(name)]
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    text = re.sub(r"\bhf_[A-Za-z0-9]{8,}", "***", text)
    text = re.sub(r"\b(Bearer|Basic) [^\s'\"]+", r"\1 ***", text)
    return re.sub(r"(://)[^\s/@'\"]+@", r"\1***@", text)


def lookup(kind: str, name: str, entries: Mapping[str, Any]) -> Any:
    """Returns `entries[name]`, or raises an InputError that lists the names of the entries."""
    if isinstance(name, Hashable) and name in entries:
        return entries[name]
    names = name_list(entries, name)
    raise InputError(f"unknown {kind} '{name}'; {hint(name, entries)}known: {names}")


def name_list(names: Iterable[str], near: str = "") -> str:
    """Returns names joined by commas; of many names, the closest to `near`, or the first ones."""
    names = list(names)
    if len(names) <= _LIST_ALL:
        return ", ".join(names)
    close = names[:_LIST_CLOSEST]
    if near:
        close = difflib.get_close_matches(str(near), names, n=_LIST_CLOSEST, cutoff=0)
    return f"{', '.join(filter(close.__contains__, names))} and {len(names) - _LIST_CLOSEST} more"


def hint(name: str, candidates: Iterable[str]) -> str:
    """Returns "did you mean 'NAME'? " with the closest candidate; "" if no candidate is close."""
    by_lower = {candidate.lower(): candidate for candidate in map(str, candidates)}
    lower = str(name).lower()
    # "SGD" and "optax.adam" are close to "sgd" and "adam".
    for word in dict.fromkeys((lower, lower.rpartition(".")[2])):
        if close := difflib.get_close_matches(word, by_lower, n=1):
            return f"did you mean '{by_lower[close[0]]}'? "
    return ""


def check_positive(**values: Any) -> None:
    """Raises an InputError for the first value that is not a positive, finite float32.

    Traced scalars are not checked: they have no value yet.
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
                f"{name} is {value!r}, but must be from {_SMALLEST:g} to {_LARGEST:g}, the range"
                " of float32"
            )


def check_counts(**values: Any) -> None:
    """Raises an InputError for the first value that is not a positive whole number of 32 bits."""
    for name, value in values.items():
        if not is_whole(value) or value < 1:
            raise InputError(f"{name} is {value!r}, but must be a whole number above 0")
        if value > _LARGEST_COUNT:
            raise InputError(f"{name} is {value!r}, but must be at most {_LARGEST_COUNT:,}")


def is_whole(value: Any) -> bool:
    """Returns True for an integer of Python or NumPy, or an integer array with one element."""
    try:
        return (
            not isinstance(value, bool) and not is_traced(value) and operator.index(value) == value
        )
    except TypeError:
        return False


def is_traced(value: Any) -> bool:
    """Returns True for an array that JAX is tracing, which has no values yet."""
    # Importing JAX here would slow down programs that do not need it.
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(value, jax.core.Tracer)


def check_arrays(**values: Any) -> None:
    """Raises an InputError for the first value that is not an array of real numbers."""
    for name, value in values.items():
        if not hasattr(value, "shape") or not hasattr(value, "dtype"):
            raise InputError(f"{name} is of type {type(value).__name__}, but must be an array")
        # bfloat16 and structured types have the same kind, V; only the latter have names.
        if getattr(value.dtype, "kind", "") not in _REAL or getattr(value.dtype, "names", None):
            raise InputError(f"{name} is an array of {value.dtype}, but must hold real numbers")
