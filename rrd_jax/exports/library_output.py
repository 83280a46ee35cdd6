"""Utilities for the console output and the error messages of libraries."""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Discards standard output and standard error, including the output of C++ libraries.

    C++ libraries write to the file descriptors of the process rather than to Python's streams.
    """
    _flush()
    copies = {}
    with tempfile.TemporaryFile() as log:
        try:
            for descriptor in (1, 2):
                # A descriptor may be closed.
                with contextlib.suppress(OSError):
                    copies[descriptor] = os.dup(descriptor)
                    os.dup2(log.fileno(), descriptor)
            yield
        finally:
            _flush()
            for descriptor, copy in copies.items():
                os.dup2(copy, descriptor)
                os.close(copy)


def reason(error: BaseException) -> str:
    """Returns a library's error message as one short line, without source locations."""
    text = str(error).strip() or type(error).__name__
    line = next((line for line in text.splitlines() if "error:" in line), text.splitlines()[0])
    line = re.sub(r"^.*?error:\s*", "", line)
    return line if len(line) <= 200 else f"{line[:200]}..."


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # A stream may be None or closed.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
