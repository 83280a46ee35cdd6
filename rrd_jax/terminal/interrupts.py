"""Ctrl-C, SIGTERM and SIGHUP: one handler, which records the signal.

An exception that a signal handler raises can be lost: Python discards exceptions inside callbacks,
such as JAX's callback of the garbage collector. Long work therefore calls `check` between its
parts. Signals that the process ignores, as after `nohup` or `&`, stay ignored.
"""

import contextlib
import enum
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import NoReturn

from rrd_jax import errors

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Errors that are reported even after a signal.
_LASTING = (errors.PreemptedError, errors.DiskError, errors.DivergedError, errors.UnreadError)
_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}


class Mode(enum.Enum):
    """The effect of the first signal.

    Attributes:
      END: ends the process; for the imports of a command, which have nothing to clean up.
      RAISE: raises an exception in the main thread.
      RECORD: is recorded for `check`; a second Ctrl-C raises a KeyboardInterrupt.
    """

    END = enum.auto()
    RAISE = enum.auto()
    RECORD = enum.auto()


class _State:
    """The state of this process.

    Attributes:
      mode: the effect of the first signal.
      number: the first signal since the outermost `handled` was entered; 0 for none.
      depth: number of active calls of `handled`.
      postpones: whether a run will save its state before it raises the exception of `check`.
    """

    mode = Mode.END
    number = 0
    depth = 0
    postpones = False


def install() -> None:
    """Handles signals from now on: outside `handled`, a signal ends the process."""
    for number in _accepted(SIGNALS):
        signal.signal(number, _handle)


@contextlib.contextmanager
def handled(mode: Mode, signals: Sequence[signal.Signals] = SIGNALS) -> Iterator[None]:
    """Handles signals inside the `with` block, and restores the previous handlers after it.

    An error after a signal is replaced by the exception of the signal, because most such errors are
    consequences: Ctrl-C also reaches child processes, and libraries wrap exceptions. Outside the
    main thread, which alone can handle signals, the context has no effect.

    Args:
      mode: the effect of the first signal.
      signals: the signals to handle.

    Raises:
      KeyboardInterrupt: Ctrl-C was pressed, and the block has ended otherwise.
      PreemptedError: the process received another signal, and the block has ended otherwise.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, _handle) for number in _accepted(signals)}
    previous_mode, _State.mode = _State.mode, mode
    _State.depth += 1
    try:
        yield
        check()
    except _LASTING:
        raise
    except Exception as failure:
        if not _State.number:
            raise
        raise error(_State.number) from failure
    finally:
        _State.mode = previous_mode
        _State.depth -= 1
        if not _State.depth:
            clear()
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def immediate() -> Iterator[None]:
    """Raises the exception of a signal at once, for waits inside a `handled` block."""
    check()
    previous, _State.mode = _State.mode, Mode.RAISE
    try:
        yield
    finally:
        _State.mode = previous


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """Suspends `check` inside the `with` block of a run that saves its state after a signal."""
    previous, _State.postpones = _State.postpones, True
    try:
        yield
    finally:
        _State.postpones = previous


def received() -> int:
    """Returns the number of the first signal; 0 if there was none."""
    return _State.number


def check() -> None:
    """Raises the exception of a signal that was received, unless a run saves its state first.

    Raises:
      KeyboardInterrupt: Ctrl-C was pressed.
      PreemptedError: the process received SIGTERM or SIGHUP.
    """
    if _State.number and not _State.postpones:
        raise error(_State.number)


def clear() -> None:
    """Forgets the signal that was received."""
    _State.number = 0


def error(number: int, details: str = "") -> BaseException:
    """Returns the exception of a signal.

    Args:
      number: number of the signal; 0 for SIGTERM to one of several processes, which JAX handles.
      details: the rest of the message; "" for the default.
    """
    if number == signal.SIGINT and not details:
        return KeyboardInterrupt()
    kind = KeyboardInterrupt if number == signal.SIGINT else errors.PreemptedError
    return kind(
        f"stopped by {_NAMES[signal.Signals(number or signal.SIGTERM)]}"
        f"{details or '; run the same command again to resume'}"
    )


def _accepted(signals: Sequence[signal.Signals]) -> list[signal.Signals]:
    """Returns the signals that the process does not ignore, and that Python handles."""
    return [n for n in signals if signal.getsignal(n) not in (signal.SIG_IGN, None)]


def _handle(number: int, frame: object) -> None:
    del frame
    if number == signal.SIGHUP:
        _leave_terminal()
    if _State.mode is Mode.END:
        _end(number)
    is_second = number == signal.SIGINT == _State.number
    _State.number = _State.number or number
    if is_second or _State.mode is Mode.RAISE:
        raise error(number)


def _end(number: int) -> NoReturn:
    os.write(2, f"error: stopped by {_NAMES[signal.Signals(number)]}; run it again\n".encode())
    os._exit(130 if number == signal.SIGINT else 75)


def _leave_terminal() -> None:
    """Redirects the output of a closed terminal, whose writes would fail, to the null device."""
    with contextlib.suppress(OSError), open(os.devnull, "w") as null:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):
                if stream.isatty():
                    os.dup2(null.fileno(), stream.fileno())
