"""Looks at the files of a folder, once: their digests, and what is an image."""

import concurrent.futures
import contextlib
import functools
import hashlib
import io
import json
import os
import pathlib
import stat
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tqdm

from rrd_jax import errors
from rrd_jax.data.folder.file_tree import File, reason
from rrd_jax.data.images import decoding
from rrd_jax.terminal import console

_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff"),
    *(".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".qoi", ".avif", ".heic"),
    *(".heif", ".hif", ".svg", ".psd", ".ico", ".tga", ".jxl", ".exr", ".hdr", ".pcx"),
)
# Negatives of cameras: TIFF by their content, but what is read first is a thumbnail.
_RAW = (".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw")
_BEGINNINGS = (
    *(b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    *(b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51", b"qoif"),
)
_WORDS = (b"BM", *(b"P%d" % i for i in range(1, 8)))  # texts begin so too
_MAX_BYTES = 2**30  # of a file that is read as one image
_MANY = 1024  # files that are handed to the threads at once
_PATIENCE = 20_000  # files without a single image among them
_FRESH = 2e9  # nanoseconds in which a file can change without another time
_FORMAT = 1  # of the file that remembers
_SECONDS = 30.0  # of work that a kill may cost


class Checked(NamedTuple):
    """What a look at a file's content found.

    Attributes:
      digest: of its content; "" where that was not read.
      format: of the image, as Pillow calls it; "" for anything else.
      width: in pixels, as stored.
      height: likewise.
      problem: why something that is meant as an image cannot be read; "" for none.
    """

    digest: str = ""
    format: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""


def check_all(
    root: str,
    files: Sequence[File],
    memory: pathlib.Path,
    others: Sequence[File] = (),
    *,
    compares: bool = False,
) -> list[Checked]:
    """Looks at each file, unless that was done and it has not changed since.

    What it found is written down now and then: after a kill it goes on from there.

    Args:
      root: of the paths.
      files: to look at.
      memory: a file that remembers; where it cannot be written, nothing is remembered.
      others: files below the root that are not looked at; what is known of them stays known.
      compares: whether to say how many files have come and gone since the last look.

    Raises:
      InputError: there are no images among many files.
    """
    (known, listed), began = _remembered(memory), time.time_ns()
    there = {file.path for part in (files, others) for file in part}
    if listed and compares:
        _say_changes(root, listed, there)
    found = [known.get(file.path, {}).get(file[1:]) for file in files]
    kept = [file for file in others if known.get(file.path, {}).get(file[1:])]
    everything, rest = [*files, *kept], [known[file.path][file[1:]] for file in kept]
    remember = functools.partial(_remember, memory, everything, began=began, there=there)
    pause = _Pause()
    new = [i for i, checked in enumerate(found) if checked is None]
    bar = tqdm.tqdm(
        total=len(files), initial=len(files) - len(new), desc="checking images", unit=" files",
        disable=None, delay=1, leave=False,
    )  # fmt: skip
    look = functools.partial(check_file, root)
    with bar, concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for first in range(0, len(new), _MANY):
            some = new[first : first + _MANY]
            for i, checked in zip(some, pool.map(look, (files[i] for i in some)), strict=True):
                found[i] = checked
                bar.update()
            if first + len(some) >= _PATIENCE and not any(c and c.format for c in found):
                raise errors.InputError(
                    f"image folder {root}: of the first {first + len(some):,} files none is an"
                    " image; name the folder that holds a folder of images for each class with"
                    " data.manual_dir"
                )
            if pause.is_over():
                remember(found=[*found, *rest])
                pause.begin()
    if new or len(known) != len(everything) or listed != there:
        remember(found=[*found, *rest])
    return found


class _Pause:
    """Between two times that what was found is written down: a small part of the work."""

    def __init__(self):
        self._start = self._end = time.monotonic()
        self.begin()

    def is_over(self) -> bool:
        """Whether it is time to write."""
        self._start = time.monotonic()
        return self._start >= self._end

    def begin(self) -> None:
        """Says that it was written, since `is_over` was asked."""
        now = time.monotonic()
        self._end = now + max(_SECONDS, 20 * (now - self._start))


def _say_changes(root: str, listed: set[str], there: set[str]) -> None:
    came, gone = len(there - listed), len(listed - there)
    if came or gone:
        console.say(
            f"{root} has changed since it was looked at last: {came:,} files were added, {gone:,}"
            " are gone"
        )


def check_file(root: str, file: File) -> Checked:
    """Looks at one file."""
    try:
        meant, content = _read(os.path.join(root, file.path))
    except OSError as error:
        # A file that may be anything counts where its name says that it is an image.
        meant = _suffix(file.path) in _SUFFIXES + _RAW
        return Checked(problem=f"it cannot be read ({reason(error)})" if meant else "")
    except errors.InputError as error:
        return Checked(problem=str(error))
    if content is None:
        return Checked()
    if not content:
        return Checked(problem="it is empty")
    try:
        header = decoding.check(content)
    except decoding.UnknownError as error:
        return Checked(problem=str(error) if meant else "")
    except errors.InputError as error:
        return Checked(problem=str(error))
    return Checked(digest(content), *header)


def digest(content: bytes) -> str:
    """Tells contents apart."""
    return hashlib.sha256(content).hexdigest()[:32]


def is_named_as_image(path: str) -> bool:
    """Whether a file is an image by its name."""
    return _suffix(path) in _SUFFIXES


def is_meant(path: str) -> bool:
    """Whether a file is meant as an image: by its name, or else by its first bytes."""
    if _suffix(path) in _SUFFIXES + _RAW:
        return True
    try:
        with _opened(path) as file:
            return _is_like(file.read(32) or b"")
    except OSError:
        return False


def read_image(path: str) -> bytes:
    """The content of a file that can be an image.

    Raises:
      OSError: it cannot be read.
      InputError: it is something else, empty, or too large.
    """
    _, content = _read(path)
    if content is None:
        raise decoding.UnknownError("it is no image, or of a format that is not read")
    if not content:
        raise errors.InputError("it is empty")
    return content


def read(path: str) -> bytes:
    """The content of a regular file; raises an OSError for anything else, and never waits."""
    return read_with_state(path)[0]


def read_with_state(path: str) -> tuple[bytes, tuple[int, int, int]]:
    """As `read`, and the file's size and times, as `File` has them."""
    with _opened(path) as file:
        state = os.fstat(file.fileno())
        return _rest(file, b""), (state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def settled(files: Sequence[File]) -> np.ndarray:
    """[N, 3] int64 size and times of files, as `File` has them.

    They are -1 of those that may have changed since they were looked at without another time.
    """
    states = np.array([file[1:] for file in files], np.int64).reshape(-1, 3)
    states[states[:, 1:].max(1, initial=0) >= time.time_ns() - _FRESH] = -1
    return states


def _opened(path: str) -> io.RawIOBase:
    return open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)


def _is_like(head: bytes) -> bool:
    """Whether the first bytes of a file are an image's."""
    return head.startswith(_BEGINNINGS) or head[4:8] == b"ftyp"


def _read(path: str) -> tuple[bool, bytes | None]:
    """Whether a file is meant as an image, and its content, or None if it is not like one."""
    suffix = _suffix(path)
    if suffix in _RAW:
        raise errors.InputError(f"{suffix} is a camera's raw file: convert it to JPEG or PNG")
    meant = suffix in _SUFFIXES
    with _opened(path) as file:
        head = file.read(32) or b""
        if not (_is_like(head) or (meant and head.startswith(_WORDS))):
            return meant, head if meant else None
        if os.fstat(file.fileno()).st_size > _MAX_BYTES:
            raise errors.InputError("it has more than 1 GB")
        return meant, _rest(file, head)


def _rest(file: object, head: bytes) -> bytes:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise OSError("no regular file")
    return head + (file.readall() or b"")


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _remembered(memory: pathlib.Path) -> tuple[dict[str, dict[tuple, Checked]], set[str]]:
    """What was found, {path: {(size, modified, changed): Checked}}, and the paths that were there.

    Nothing, if it cannot be read.
    """
    try:
        body, line_end, seal = memory.read_bytes().partition(b"\n")
        if line_end and seal != digest(body).encode():  # earlier versions wrote none
            return {}, set()
        content = json.loads(body)
        if content["format"] != _FORMAT:
            return {}, set()
        files = content["files"]
        found = {path: {tuple(row[:3]): Checked(*row[3:])} for path, row in files.items()}
        return found, {*found, *content.get("others", ())}  # of which earlier versions knew nothing
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}, set()


def _remember(
    memory: pathlib.Path,
    files: Sequence[File],
    found: Sequence[Checked | None],
    began: int,
    there: set[str],
) -> None:
    rows = {
        file.path: [*file[1:], *checked]
        for file, checked in zip(files, found, strict=True)
        if checked is not None  # it was not looked at yet
        # Not what can be read another time, nor what may have changed while it was read.
        if max(file.modified, file.changed) < began - _FRESH
        and (checked.digest or not checked.problem)
    }
    part = memory.with_name(f"{memory.name}.{os.getpid()}")
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        content = {"format": _FORMAT, "files": rows, "others": sorted(there - rows.keys())}
        body = json.dumps(content, separators=(",", ":")).encode()
        part.write_bytes(body + b"\n" + digest(body).encode())
        part.replace(memory)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
