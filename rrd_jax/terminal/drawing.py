"""Writes matplotlib figures."""

import pathlib
from collections.abc import Callable
from typing import Any

from rrd_jax import errors
from rrd_jax.terminal import runtime_errors


def check(subject: str) -> None:
    """Raises an UnavailableError if matplotlib is not installed.

    Args:
      subject: the subject of the message "... needs matplotlib".
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise errors.UnavailableError(
            f"{subject} needs matplotlib, which cannot be imported ({error}); run"
            " `pip install 'rrd_jax[plots]'`"
        ) from error


def write(make: Callable[[], Any], path: pathlib.Path) -> None:
    """Writes a figure; a failure leaves no partial file.

    Args:
      make: returns the figure.
      path: a file whose format matplotlib supports.

    Raises:
      InputError: the file cannot be written.
      DiskError: the disk is full or cannot be written.
    """
    import matplotlib

    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        # Names can contain dollar signs, which must not start a formula.
        with matplotlib.rc_context({"text.parse_math": False}):
            make().savefig(part, facecolor="white")
        part.replace(path)
    except OSError as error:
        kind = errors.DiskError if runtime_errors.is_disk_error(error) else errors.InputError
        raise kind(f"{path} cannot be written ({error.strerror or error})") from error
    finally:
        part.unlink(missing_ok=True)
