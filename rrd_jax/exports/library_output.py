"""Keeps what libraries print out of a program's own lines."""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """What is written to standard output and error goes nowhere, also what libraries in C++ write.

    They write to the process's descriptors, not to Python's streams.
    """
    _flush()
    kept = {}
    with tempfile.TemporaryFile() as log:
        try:
            for descriptor in (1, 2):
                with contextlib.suppress(OSError):  # one that is closed
                    kept[descriptor] = os.dup(descriptor)
                    os.dup2(log.fileno(), descriptor)
            yield
        finally:
            _flush()
            for descriptor, copy in kept.items():
                os.dup2(copy, descriptor)
                os.close(copy)


def reason(error: BaseException) -> str:
    """An error of a library as a short line, without places in files of programs."""
    text = str(error).strip() or type(error).__name__
    line = next((line for line in text.splitlines() if "error:" in line), text.splitlines()[0])
    line = re.sub(r"^.*?error:\s*", "", line)
    return line if len(line) <= 200 else f"{line[:200]}..."


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # none, or a closed one
            stream.flush()
