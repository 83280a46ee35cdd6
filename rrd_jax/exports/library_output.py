"""Output and error messages of libraries."""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Discards standard output and error, including those of libraries in C++.

    They write to the process's file descriptors, not to Python's streams.
    """
    _flush()
    kept = {}
    with tempfile.TemporaryFile() as log:
        try:
            for descriptor in (1, 2):
                with contextlib.suppress(OSError):  # The descriptor may be closed.
                    kept[descriptor] = os.dup(descriptor)
                    os.dup2(log.fileno(), descriptor)
            yield
        finally:
            _flush()
            for descriptor, copy in kept.items():
                os.dup2(copy, descriptor)
                os.close(copy)


def reason(error: BaseException) -> str:
    """Returns a library's error message as a short line, without source locations."""
    text = str(error).strip() or type(error).__name__
    line = next((line for line in text.splitlines() if "error:" in line), text.splitlines()[0])
    line = re.sub(r"^.*?error:\s*", "", line)
    return line if len(line) <= 200 else f"{line[:200]}..."


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # None, or closed.
            stream.flush()
