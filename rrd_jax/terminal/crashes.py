"""Crash reports: files with the traceback of an unexpected error."""

import contextlib
import os
import pathlib
import sys
import tempfile
import textwrap
import time
import traceback
from collections.abc import Callable

from rrd_jax import buckets, errors, user_paths


def report(error: BaseException, folder: Callable[[], pathlib.Path] | None = None) -> str:
    """Writes the traceback of an error to a file, and returns a message that names the file.

    Args:
      error: any exception.
      folder: returns the folder of the file. If the file cannot be written to this folder, it is
        written to the folder for temporary files.
    """
    report_text = "".join(traceback.format_exception(error))
    text = errors.redacted(f"{' '.join(sys.argv)}\n\n{report_text}")
    name = f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    location = "could not be written to a file"
    for get_folder in filter(None, (folder, tempfile.gettempdir)):
        with contextlib.suppress(Exception):
            path = user_paths.path_of(os.fspath(get_folder())).absolute() / name
            if buckets.is_bucket(path):
                buckets.write(path, text.encode(errors="backslashreplace"))
            else:
                path.write_text(text, errors="backslashreplace")
            location = f"is in {path}"
            break
    frames = traceback.extract_tb(error.__traceback__)
    if frames and errors.is_user_file(frames[-1].filename):
        origin = f"raised in {frames[-1].filename}, line {frames[-1].lineno}"
    else:
        origin = "this is a bug in rrd_jax, please report it"
    return f"{_first_line(error)}\n{origin}; the traceback {location}"


def _first_line(error: BaseException) -> str:
    """Returns the class of an error and the first line of its message."""
    name, line = type(error).__name__, errors.redacted(str(error)).strip().partition("\n")[0]
    return f"{name}: {textwrap.shorten(line, 300)}" if line else name
