"""Files that are written whole or not at all."""

import contextlib
import json
import pathlib
from typing import Any

from rrd_jax import errors


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all; raises an InputError if it cannot be written."""
    part = path.with_suffix(".part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except IsADirectoryError as error:
        place = part if part.is_dir() else path
        _discard(part)
        raise errors.InputError(f"{place} is a folder, where a file is kept; remove it") from error
    except OSError as error:
        _discard(part)  # a full disk takes half of it
        raise errors.DiskError(
            f"{path} cannot be written ({error.strerror or error}); make room or mend that, and"
            " start the same command again"
        ) from error


def _discard(part: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        part.unlink()


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
