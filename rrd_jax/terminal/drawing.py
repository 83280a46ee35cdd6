"""Figures of matplotlib, written whole or not at all."""

import pathlib
from collections.abc import Callable
from typing import Any

from rrd_jax import errors
from rrd_jax.terminal import runtime_errors


def check(subject: str) -> None:
    """Raises an UnavailableError if matplotlib is not installed.

    Args:
      subject: the beginning of a sentence that ends in "needs matplotlib".
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise errors.UnavailableError(
            f"{subject} needs matplotlib, which cannot be imported ({error}): run"
            " `pip install 'rrd_jax[plots]'`"
        ) from error


def write(make: Callable[[], Any], path: pathlib.Path) -> None:
    """Writes a figure.

    Args:
      make: returns the figure.
      path: of a file of a format that matplotlib can write.

    Raises:
      InputError: the file cannot be written.
      DiskError: the disk takes nothing more.
    """
    import matplotlib

    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        with matplotlib.rc_context({"text.parse_math": False}):  # Names can contain dollars.
            make().savefig(part, facecolor="white")
        part.replace(path)
    except OSError as error:
        kind = errors.DiskError if runtime_errors.is_disk_error(error) else errors.InputError
        raise kind(f"{path} cannot be written ({error.strerror or error})") from error
    finally:
        part.unlink(missing_ok=True)
