"""Pictures by matplotlib, written whole or not at all."""

import pathlib
from collections.abc import Callable
from typing import Any

from rrd_jax import errors
from rrd_jax.terminal import failures


def check(what: str) -> None:
    """Raises an UnavailableError where matplotlib is not installed.

    Args:
      what: needs it, as the beginning of a sentence that ends in "needs matplotlib".
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise errors.UnavailableError(
            f"{what} needs matplotlib, which cannot be imported ({error}): run"
            " `pip install 'rrd_jax[plots]'`"
        ) from error


def write(make: Callable[[], Any], path: pathlib.Path) -> None:
    """Writes a figure.

    Args:
      make: gives matplotlib's figure.
      path: of a file whose ending matplotlib knows.

    Raises:
      InputError: the file cannot be written.
      DiskError: the disk does not take it.
    """
    import matplotlib

    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        with matplotlib.rc_context({"text.parse_math": False}):  # names may hold dollars
            make().savefig(part, facecolor="white")
        part.replace(path)
    except OSError as error:
        kind = errors.DiskError if error.errno in failures.DISK else errors.InputError
        raise kind(f"{path} cannot be written ({error.strerror or error})") from error
    finally:
        part.unlink(missing_ok=True)
