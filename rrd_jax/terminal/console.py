"""What programs say to whoever started them: lines, warnings, tables, one progress line.

On a terminal all of it fits the width that the terminal has at that moment, and what comes next
takes the place of the progress line. Anywhere else, as in a log file, tables are Markdown and there
is no progress line. Colours are for terminals, unless NO_COLOR is set or TERM is dumb.
"""

import contextlib
import io
import os
import select
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TextIO

from rrd_jax import errors
from rrd_jax.terminal import tables

_RED, _YELLOW, _CYAN = 31, 33, 36
_shown = 0  # columns that the progress line on the screen takes


def say(text: str) -> None:
    """Prints text, in place of a progress line; on a terminal, lines end between words.

    Raises:
      UnreadError: nobody reads what is printed any more.
      DiskError: the file that standard output goes to takes nothing more.
    """
    if is_terminal():
        text = "\n".join(_wrapped(line, width()) for line in text.split("\n"))
    _write(f"{_wipe()}{text}\n")


def warn(text: str) -> None:
    """Prints a warning: what is doubtful, with its value, and what to do about it."""
    say(_painted("warning:", _YELLOW, sys.stdout) + " " + _printable(text))


def note(text: str) -> None:
    """Prints what is worth knowing and needs nothing done."""
    say(_painted("note:", _CYAN, sys.stdout) + " " + _printable(text))


def error(text: str) -> None:
    """Prints on standard error why the program ends."""
    with contextlib.suppress(errors.DiskError, errors.UnreadError):
        _write(_wipe())
    with contextlib.suppress(OSError):  # the exit code says it too
        painted = _painted("error:", _RED, sys.stderr)
        print(painted, _printable(text), file=sys.stderr, flush=True)


def progress(label: str, parts: Sequence[str]) -> None:
    """Shows one line in place of the last; nothing where lines cannot be overwritten.

    Args:
      label: of what goes on.
      parts: the most important first; those that do not fit are left out, from the last one on.
    """
    global _shown
    if not overwrites():
        return
    line = fitted(label, parts, width() - 1)  # in the last column some terminals wrap
    _write(_wipe() + line)
    _shown = tables.cells(line)


def fitted(label: str, parts: Sequence[str], columns: int) -> str:
    """`[label] part  part ...`, as many parts as there is room for; without label if need be."""
    line = f"[{label}] {parts[0]}"
    if tables.cells(line) > columns:
        line = tables.cut(parts[0], columns)
    for part in parts[1:]:
        if tables.cells(line) + 2 + tables.cells(part) > columns:
            break
        line += f"  {part}"
    return line


def print_row(label: str, parts: Sequence[str]) -> None:
    """Prints a line of several parts: whole, or on a terminal as much of it as fits."""
    if not is_terminal():
        say(f"[{label}] {'  '.join(parts)}")
    else:
        say(fitted(label, parts, width()))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], before: str = "") -> None:
    """Prints a table: Markdown, or on a terminal whatever fits.

    Args:
      header: of the columns.
      rows: of cells.
      before: text that comes first.
    """
    text = tables.fitted(header, rows, width()) if is_terminal() else tables.markdown(header, rows)
    say(before + text)


def print_markdown(text: str, before: str = "") -> None:
    """Prints a table that is Markdown already; as `print_table`."""
    print_table(*tables.parsed(text), before=before)


def is_terminal() -> bool:
    """Whether somebody reads standard output on a screen."""
    return _is_terminal(sys.stdout)


def overwrites() -> bool:
    """Whether standard output is a terminal that takes back what it shows."""
    return is_terminal() and not _is_dumb()


def width() -> int:
    """Columns of the terminal, as it is now."""
    try:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return columns or shutil.get_terminal_size().columns


def _wipe() -> str:
    """What takes the progress line off the screen."""
    global _shown
    if not _shown:
        return ""
    # A terminal that was made narrower since has wrapped the line.
    rows, _shown = (_shown - 1) // width(), 0
    return f"\r\x1b[{rows}A\x1b[J" if rows else "\r\x1b[K"


def clear() -> None:
    """Takes the progress line off the screen."""
    _write(_wipe())


def flush() -> None:
    """Writes out what standard output holds back; raises as `say` does."""
    _write("")
    with contextlib.suppress(AttributeError, OSError, ValueError):
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            raise errors.UnreadError


def write(text: str, out: TextIO) -> None:
    """Writes text as it is to a stream that somebody or something reads.

    Raises:
      UnreadError: nobody reads it any more.
      DiskError: the file that it goes to takes nothing more.
    """
    _write(text, out)


def _write(text: str, out: TextIO | None = None) -> None:
    out = out or sys.stdout
    if out is None:  # closed
        return
    try:
        out.write(text)
        out.flush()
    except OSError as error:
        _leave(out)
        if isinstance(error, BrokenPipeError):
            raise errors.UnreadError from error
        raise errors.DiskError(
            f"standard output takes nothing more ({error.strerror}); mend it, or print elsewhere"
        ) from error


def _wrapped(line: str, columns: int) -> str:
    """The line in several, where it is too wide; paths are left whole, to be copied."""
    if tables.cells(line) <= columns:
        return line
    options = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(line, max(columns, 3), subsequent_indent="  ", **options)


def _leave(out: TextIO) -> None:
    """Lets Python write at exit into nothing what the stream still holds; it would fail again."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, out.fileno())
        os.close(nowhere)


def _painted(text: str, colour: int, stream: TextIO | None) -> str:
    if not _is_terminal(stream) or _is_dumb() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"


def _printable(text: str) -> str:
    """The lines of a text, as a terminal shows them and does not obey them."""
    return "\n".join(map(errors.printable, text.split("\n")))


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except (ValueError, io.UnsupportedOperation):  # closed
        return False


def _is_dumb() -> bool:
    return os.environ.get("TERM", "dumb") in ("", "dumb", "unknown")
