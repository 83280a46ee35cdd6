"""Inspects each file of a folder once: its content digest, and the properties of its image."""

import concurrent.futures
import contextlib
import functools
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tqdm

from rrd_jax import errors
from rrd_jax.data.folder.file_tree import File, display_path
from rrd_jax.data.images import decoding, image_files
from rrd_jax.terminal import console, interrupts
from rrd_jax.terminal.long_search import LongSearch

# Number of files that are submitted to the threads together.
_CHUNK_SIZE = 1024
# Inspection stops with an error after this number of files without an image.
_MAX_LEADING_NON_IMAGES = 20_000
# Nanoseconds in which a file can change without a change of its timestamps.
_TIMESTAMP_MARGIN = 2e9
# Version of the format of the index file.
_INDEX_FORMAT = 1
# Seconds between two writes of the index.
_SAVE_INTERVAL = 30.0


class CheckedFile(NamedTuple):
    """The result of inspecting a file.

    Attributes:
      digest: digest of the content; "" if the file is not a readable image.
      format: Pillow's name of the image format; "" if the file is not a readable image.
      width: stored width in pixels.
      height: stored height in pixels.
      problem: the reason why an image file cannot be read; "" for none.
      transparent: whether a pixel is transparent; None in indexes of earlier versions.
    """

    digest: str = ""
    format: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""
    transparent: bool | None = None

    @property
    def is_complete(self) -> bool:
        """False for a result from an index of an earlier version, which lacks a property."""
        return self.transparent is not None or self.format in ("", "JPEG", "MPO")


def check_all(
    root: str,
    files: Sequence[File],
    index_file: pathlib.Path,
    others: Sequence[File] = (),
    *,
    report_changes: bool = False,
    check: Callable[[str, File], Any] | None = None,
    result_type: type = CheckedFile,
) -> list[Any]:
    """Inspects each file that is not in the index or has changed since the last inspection.

    The index is written every 30 seconds, so an interrupted inspection resumes from there.

    Args:
      root: folder that the paths are relative to.
      files: files to inspect.
      index_file: index of earlier results; not updated if it cannot be written.
      others: files below the root that are not inspected; the index keeps their results.
      report_changes: whether to report the number of files added or removed since the last
        inspection.
      check: (root, file) -> the result for a file; None for `check_file`.
      result_type: class of the results, a named tuple with `digest`, `format`, `problem` and
        `is_complete` as in CheckedFile.

    Returns:
      The result for each file.

    Raises:
      InputError: there is no image among the first 20,000 files.
    """
    start_time, (index, listed) = time.time_ns(), _read_index(index_file, result_type)
    check_one = functools.partial(check or check_file, root)
    current_paths = {file.path for part in (files, others) for file in part}
    if report_changes and listed and listed != current_paths:
        console.say(
            f"files in {root} since the last inspection: {len(current_paths - listed):,} added,"
            f" {len(listed - current_paths):,} removed"
        )

    def look_up(file: File) -> Any:
        state, checked = index.get(file.path, (None, None))
        return checked if state == file[1:] and checked.is_complete else None

    checked = list(map(look_up, files))
    carried_over = [(file, result) for file in others if (result := look_up(file))]
    new = [i for i, result in enumerate(checked) if result is None]

    def save() -> None:
        _write_index(
            index_file,
            [*zip(files, checked, strict=True), *carried_over],
            start_time,
            current_paths,
        )

    bar = tqdm.tqdm(
        total=len(files), initial=len(files) - len(new), desc="checking images", unit=" files",
        disable=None, delay=1, leave=False,
    )  # fmt: skip
    last_save, search = time.monotonic(), LongSearch(display_path(root))
    with bar, concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for first in range(0, len(new), _CHUNK_SIZE):
            if bar.disable:
                search.report(f"{first:,} of {len(new):,} new files are read")
            interrupts.check()
            chunk = new[first : first + _CHUNK_SIZE]
            results = pool.map(check_one, (files[i] for i in chunk))
            for i, result in zip(chunk, results, strict=True):
                checked[i] = result
                bar.update()
            if first + len(chunk) >= _MAX_LEADING_NON_IMAGES and not any(
                c and c.format for c in checked
            ):
                raise errors.InputError(
                    f"image folder {root}: no image among the first {first + len(chunk):,} files;"
                    " name the folder that holds one folder of images per class with"
                    " data.manual_dir"
                )
            if time.monotonic() - last_save >= _SAVE_INTERVAL:
                save()
                last_save = time.monotonic()
    if new or len(index) != len(files) + len(carried_over) or listed != current_paths:
        save()
    return checked


def check_file(root: str, file: File) -> CheckedFile:
    """Inspects one file."""
    is_named = image_files.is_named_as_image(file.path)
    try:
        content = image_files.read(os.path.join(root, file.path))
        header = decoding.check(content)
        return CheckedFile(digest(content), **header._asdict())
    except decoding.UnknownError as error:
        return CheckedFile(problem=str(error) if is_named else "")
    except errors.InputError as error:
        return CheckedFile(problem=str(error))
    except OSError as error:
        # An unreadable file is reported only if its suffix is that of an image.
        reason = image_files.reason(error)
        return CheckedFile(problem=f"cannot be read ({reason})" if is_named else "")


def digest(content: bytes) -> str:
    """Returns a digest of 32 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()[:32]


def trusted_states(files: Sequence[File]) -> np.ndarray:
    """Returns [N, 3] int64, the size, modification time and change time of each file.

    The row is -1 for a file that may have changed after its inspection without a change of its
    timestamps.
    """
    states = np.array([file[1:] for file in files], np.int64).reshape(-1, 3)
    states[states[:, 1:].max(1, initial=0) >= time.time_ns() - _TIMESTAMP_MARGIN] = -1
    return states


def _read_index(
    index_file: pathlib.Path, result_type: type
) -> tuple[dict[str, tuple[tuple, Any]], set[str]]:
    """Returns {path: ((size, modified, changed), result)} and all paths of the last inspection.

    Both are empty if the index is missing or damaged.
    """
    try:
        body, line_end, seal = index_file.read_bytes().partition(b"\n")
        content = json.loads(body)
        # Earlier versions wrote neither a digest nor a list of other files.
        is_damaged = line_end and seal != digest(body).encode()
        if is_damaged or content["format"] != _INDEX_FORMAT:
            return {}, set()
        rows = content["files"].items()
        index = {path: (tuple(row[:3]), result_type(*row[3:])) for path, row in rows}
        return index, {*index, *content.get("others", ())}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}, set()


def _write_index(
    index_file: pathlib.Path,
    results: Sequence[tuple[File, Any]],
    start_time: int,
    current_paths: set[str],
) -> None:
    rows = {
        file.path: [*file[1:], *checked]
        for file, checked in results
        # Unreadable files and files that may have changed meanwhile are inspected again.
        if checked is not None
        and max(file.modified, file.changed) < start_time - _TIMESTAMP_MARGIN
        and (checked.digest or not checked.problem)
    }
    part = index_file.with_name(f"{index_file.name}.{os.getpid()}")
    try:
        index_file.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "format": _INDEX_FORMAT,
            "files": rows,
            "others": sorted(current_paths - rows.keys()),
        }
        body = json.dumps(content, separators=(",", ":")).encode()
        part.write_bytes(body + b"\n" + digest(body).encode())
        part.replace(index_file)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
