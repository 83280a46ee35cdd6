"""Inspects the files of a folder once: their digests, and which of them are readable images."""

import concurrent.futures
import contextlib
import functools
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tqdm

from rrd_jax import errors
from rrd_jax.data.folder.file_tree import File
from rrd_jax.data.images import decoding, image_files
from rrd_jax.terminal import console

_MANY = 1024  # files that are handed to the threads at once
_PATIENCE = 20_000  # files without a single image among them
_FRESH = 2e9  # nanoseconds in which a file can change while its times stay the same
_FORMAT = 1  # of the index file
_SECONDS = 30.0  # of work that a kill may cost


class Checked(NamedTuple):
    """The result of inspecting the content of a file.

    Attributes:
      digest: digest of the content; "" if the file is no readable image.
      format: format of the image, as Pillow calls it; "" for anything else.
      width: in pixels, as stored.
      height: likewise.
      problem: why a file that is meant as an image cannot be read; "" for none.
    """

    digest: str = ""
    format: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""


def check_all(
    root: str,
    files: Sequence[File],
    index_file: pathlib.Path,
    others: Sequence[File] = (),
    *,
    compares: bool = False,
) -> list[Checked]:
    """Inspects each file, unless the index has its result and the file has not changed since.

    The index is written every 30 seconds, so that an inspection that was killed continues there.

    Args:
      root: folder that the paths are relative to.
      files: files to inspect.
      index_file: index of earlier results; if it cannot be written, nothing is kept.
      others: files below the root that are not inspected; their results in the index are kept.
      compares: whether to report how many files were added or removed since the last inspection.

    Raises:
      InputError: there are no images among many files.
    """
    began, (index, listed) = time.time_ns(), _read_index(index_file)
    there = {file.path for part in (files, others) for file in part}
    if compares and listed and listed != there:
        console.say(
            f"{root} has changed since it was looked at last: {len(there - listed):,} files were"
            f" added, {len(listed - there):,} are gone"
        )

    def look_up(file: File) -> Checked | None:
        state, checked = index.get(file.path, (None, None))
        return checked if state == file[1:] else None

    checked = list(map(look_up, files))
    kept = [(file, result) for file in others if (result := look_up(file))]
    new = [i for i, result in enumerate(checked) if result is None]

    def save() -> None:
        _write_index(index_file, [*zip(files, checked, strict=True), *kept], began, there)

    bar = tqdm.tqdm(
        total=len(files), initial=len(files) - len(new), desc="checking images", unit=" files",
        disable=None, delay=1, leave=False,
    )  # fmt: skip
    saved = time.monotonic()
    with bar, concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for first in range(0, len(new), _MANY):
            some = new[first : first + _MANY]
            results = pool.map(functools.partial(check_file, root), (files[i] for i in some))
            for i, result in zip(some, results, strict=True):
                checked[i] = result
                bar.update()
            if first + len(some) >= _PATIENCE and not any(c and c.format for c in checked):
                raise errors.InputError(
                    f"image folder {root}: of the first {first + len(some):,} files none is an"
                    " image; name the folder that holds a folder of images for each class with"
                    " data.manual_dir"
                )
            if time.monotonic() - saved >= _SECONDS:
                save()
                saved = time.monotonic()
    if new or len(index) != len(files) + len(kept) or listed != there:
        save()
    return checked


def check_file(root: str, file: File) -> Checked:
    """Inspects one file."""
    is_named = image_files.is_named_as_image(file.path)
    try:
        content = image_files.read(os.path.join(root, file.path))
        header = decoding.check(content)
        return Checked(digest(content), *header)
    except decoding.UnknownError as error:
        return Checked(problem=str(error) if is_named else "")
    except errors.InputError as error:
        return Checked(problem=str(error))
    except OSError as error:
        # A file that may be anything counts if its name is an image's.
        reason = image_files.reason(error)
        return Checked(problem=f"it cannot be read ({reason})" if is_named else "")


def digest(content: bytes) -> str:
    """Returns a digest of 32 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()[:32]


def settled(files: Sequence[File]) -> np.ndarray:
    """Returns the size and times of files as [N, 3] int64, as `File` has them.

    Those that may have changed since they were inspected, within the resolution of their times,
    are -1.
    """
    states = np.array([file[1:] for file in files], np.int64).reshape(-1, 3)
    states[states[:, 1:].max(1, initial=0) >= time.time_ns() - _FRESH] = -1
    return states


def _read_index(index_file: pathlib.Path) -> tuple[dict[str, tuple[tuple, Checked]], set[str]]:
    """Returns {path: ((size, modified, changed), result)}, and all paths of the last inspection.

    Both are empty if the index cannot be read.
    """
    try:
        body, line_end, seal = index_file.read_bytes().partition(b"\n")
        content = json.loads(body)
        # Earlier versions wrote no digest, and no list of the other files.
        is_damaged = line_end and seal != digest(body).encode()
        if is_damaged or content["format"] != _FORMAT:
            return {}, set()
        rows = content["files"].items()
        index = {path: (tuple(row[:3]), Checked(*row[3:])) for path, row in rows}
        return index, {*index, *content.get("others", ())}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}, set()


def _write_index(
    index_file: pathlib.Path,
    results: Sequence[tuple[File, Checked | None]],
    began: int,
    there: set[str],
) -> None:
    rows = {
        file.path: [*file[1:], *checked]
        for file, checked in results
        # Files that are readable another time, or may have changed meanwhile, are inspected again.
        if checked is not None
        and max(file.modified, file.changed) < began - _FRESH
        and (checked.digest or not checked.problem)
    }
    part = index_file.with_name(f"{index_file.name}.{os.getpid()}")
    try:
        index_file.parent.mkdir(parents=True, exist_ok=True)
        content = {"format": _FORMAT, "files": rows, "others": sorted(there - rows.keys())}
        body = json.dumps(content, separators=(",", ":")).encode()
        part.write_bytes(body + b"\n" + digest(body).encode())
        part.replace(index_file)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
