"""Console output: lines, warnings, tables and a progress line.

On a terminal, all output fits the current width, and the next output replaces the progress line. In
a log file, tables are Markdown, and progress is a line of its own, after a minute without output.
Terminals show colors unless NO_COLOR is set or TERM is dumb.
"""

import contextlib
import io
import os
import select
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from rrd_jax import errors
from rrd_jax.terminal import interrupts, tables

if TYPE_CHECKING:
    from rich.console import Console

# Seconds without output after which a log file, which cannot overwrite a line, shows progress.
_QUIET_SECONDS = 60.0
# Width of the progress line that is on the screen, in columns.
_progress_cells = 0
# Time of the last line; None before the first line.
_last_line: float | None = None


def say(text: str) -> None:
    """Prints text, which replaces the progress line. On a terminal, lines wrap between words.

    Raises:
      UnreadError: the reader of standard output has closed the pipe.
      DiskError: the file of standard output cannot be written.
    """
    global _last_line
    if is_terminal():
        text = "\n".join(_wrapped(line, width()) for line in text.split("\n"))
    _last_line = time.monotonic()
    _write(f"{_clearing()}{text}\n")


def warn(text: str) -> None:
    """Prints a warning: the problem, its value, and what to do about it."""
    say(f"{_colored('warning:', 'yellow', sys.stdout)} {_printable(text)}")


def note(text: str) -> None:
    """Prints information that needs no action."""
    say(f"{_colored('note:', 'cyan', sys.stdout)} {_printable(text)}")


def error(text: str) -> None:
    """Prints the reason for the program's end to standard error."""
    with contextlib.suppress(errors.DiskError, errors.UnreadError):
        _write(_clearing())
    # If standard error cannot be written, the exit code still reports the error.
    with contextlib.suppress(OSError):
        label = _colored("error:", "red", sys.stderr)
        print(label, _printable(errors.redacted(text)), file=sys.stderr, flush=True)


def progress(label: str, parts: Sequence[str]) -> None:
    """Replaces the progress line of a terminal; a log file gets a line at most once a minute.

    All work that shows its progress can be interrupted: a signal that was received ends the work.

    Args:
      label: name of the work in progress.
      parts: texts, the most important first; texts at the end are omitted if they do not fit.

    Raises:
      KeyboardInterrupt: see `interrupts.check`.
      PreemptedError: see `interrupts.check`.
    """
    global _progress_cells, _last_line
    interrupts.check()
    if not overwrites():
        now = time.monotonic()
        # The first call starts the first minute.
        _last_line = now if _last_line is None else _last_line
        if now - _last_line >= _QUIET_SECONDS:
            print_row(label, parts)
        return
    # Some terminals wrap a line that fills the last column.
    line = fit_line(label, parts, width() - 1)
    _write(_clearing() + line)
    _progress_cells = tables.cells(line)


def fit_line(label: str, parts: Sequence[str], columns: int) -> str:
    """Returns `[label] part  part ...` with as many parts as fit; drops the label if necessary."""
    line = f"[{label}] {parts[0]}"
    if tables.cells(line) > columns:
        line = tables.cut(parts[0], columns)
    for part in parts[1:]:
        if tables.cells(line) + 2 + tables.cells(part) > columns:
            break
        line += f"  {part}"
    return line


def print_row(label: str, parts: Sequence[str]) -> None:
    """Prints `[label] part  part ...`; on a terminal, only the parts that fit."""
    say(fit_line(label, parts, width()) if is_terminal() else f"[{label}] {'  '.join(parts)}")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], before: str = "") -> None:
    """Prints a table without its empty columns, as Markdown if the output is not a terminal.

    Args:
      header: column names.
      rows: the cells of each row.
      before: text to print before the table.
    """
    header, rows = tables.without_empty_columns(header, rows)
    text = tables.fitted(header, rows, width()) if is_terminal() else tables.markdown(header, rows)
    say(before + text)


def is_terminal() -> bool:
    """Returns True if standard output is a terminal."""
    return _is_terminal(sys.stdout)


def overwrites() -> bool:
    """Returns True if standard output is a terminal that can overwrite lines."""
    return is_terminal() and not _console(sys.stdout).is_dumb_terminal


def width() -> int:
    """Returns the current number of columns of the terminal."""
    try:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    # The variable COLUMNS, which rich prefers, is not updated when a terminal is resized.
    return columns or shutil.get_terminal_size().columns


def clear() -> None:
    """Removes the progress line."""
    _write(_clearing())


def flush() -> None:
    """Flushes standard output; raises the same errors as `say`."""
    _write("")
    with contextlib.suppress(AttributeError, OSError, ValueError):
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            raise errors.UnreadError


def write(text: str, out: TextIO) -> None:
    """Writes text to a stream and flushes it.

    Raises:
      UnreadError: the reader of the stream has closed the pipe.
      DiskError: the file of the stream cannot be written.
    """
    try:
        out.write(text)
        out.flush()
    except OSError as error:
        # Python flushes the stream again at exit, which must not fail.
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as null:
            os.dup2(null.fileno(), out.fileno())
        if isinstance(error, BrokenPipeError):
            raise errors.UnreadError from error
        raise errors.DiskError(
            f"standard output cannot be written ({error.strerror}); free disk space or redirect the"
            " output to another file"
        ) from error


def _write(text: str) -> None:
    # A closed standard output is None.
    if sys.stdout is not None:
        write(text, sys.stdout)


def _clearing() -> str:
    """Returns the escape sequence that clears the progress line."""
    global _progress_cells
    if not _progress_cells:
        return ""
    from rich.control import Control
    from rich.segment import ControlType

    # If the terminal became narrower, the progress line was wrapped to several rows.
    rows, _progress_cells = (_progress_cells - 1) // width(), 0
    erasing = (ControlType.ERASE_IN_LINE, 2)
    above = [(ControlType.CURSOR_UP, 1), erasing] * rows
    return str(Control(ControlType.CARRIAGE_RETURN, erasing, *above))


def _wrapped(line: str, columns: int) -> str:
    """Wraps a line between words. Paths are not broken, so that they can be copied."""
    if tables.cells(line) <= columns:
        return line
    return textwrap.fill(
        line,
        max(columns, 3),
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _colored(text: str, color: str, stream: TextIO | None) -> str:
    if not _is_terminal(stream):
        return text
    console = _console(stream)
    with console.capture() as capture:
        console.print(text, style=color, end="")
    return capture.get()


def _console(stream: TextIO) -> "Console":
    from rich.console import Console

    return Console(file=stream, highlight=False)


def _printable(text: str) -> str:
    """Escapes all control characters except line ends."""
    return "\n".join(map(errors.printable, text.split("\n")))


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    # The stream is closed.
    except (ValueError, io.UnsupportedOperation):
        return False
