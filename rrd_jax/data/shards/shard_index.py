"""Indexes of tar files: the position of each file in a shard, listed once and stored."""

import hashlib
import os
import pathlib
import re
import tarfile
import zipfile
import zlib
from typing import NamedTuple

import numpy as np

from rrd_jax import errors
from rrd_jax.terminal import interrupts

# Version of the format of index files.
_FORMAT = 1
_BLOCK = 512
_CHUNK = 1 << 22
# The key of a sample is the path up to the first dot of the file's name.
_NAME = re.compile(r"(?P<key>(?:.*/)?[^/.]+)\.(?P<extension>[^/]*)", re.DOTALL)
# Entries of webdataset about the shard itself.
_META = re.compile(r"__[^/]*__(?:$|/|\.)")
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}


class State(NamedTuple):
    """Size in bytes, and modification and change time in nanoseconds, of a shard."""

    size: int
    modified: int
    changed: int


class Shard(NamedTuple):
    """The files in a tar file.

    Attributes:
      path: path of the tar file.
      state: size and times of the tar file when it was listed.
      digest: digest of the content of the tar file.
      keys: [n], bytes; keys of the samples in the order of their first files.
      extensions: extensions of the files, in lower case, without the first dot.
      samples: [m], index of the sample of each file.
      kinds: [m], index of the extension of each file.
      offsets: [m], position of the content of each file in bytes.
      sizes: [m], size of each file in bytes.
    """

    path: str
    state: State
    digest: str
    keys: np.ndarray
    extensions: tuple[str, ...]
    samples: np.ndarray
    kinds: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray


def state_of(path: str) -> State:
    """Returns the size and the times of a file."""
    status = os.stat(path)
    return State(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def open_shard(path: str, folder: pathlib.Path) -> Shard:
    """Returns the index of a shard, which is read from a folder or created there.

    Raises:
      InputError: the tar file is damaged, truncated or compressed, or has a file twice.
    """
    try:
        state = state_of(path)
        name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:24]
        stored = _read(folder / f"{name}.npz", path, state)
        if stored is not None:
            return stored
        shard = _list(path, state)
    except OSError as error:
        raise errors.InputError(
            f"shard {errors.printable(path)} cannot be read ({error.strerror or error}); make it"
            " readable, or copy it again"
        ) from error
    _write(folder / f"{name}.npz", shard)
    return shard


def _list(path: str, state: State) -> Shard:
    """Lists the files of a tar file, and computes the digest of its content."""
    digest, zeros = _digest(path)
    keys: dict[str, int] = {}
    extensions: dict[str, int] = {}
    positions: dict[tuple[int, int], tuple[int, int]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                interrupts.check()
                match = _NAME.fullmatch(member.name)
                if member.isdir() or _META.match(member.name) or not match:
                    continue
                _check_content(path, member)
                if member.offset_data + member.size > state.size:
                    raise _damaged(path, f"it ends within '{member.name}'")
                sample = keys.setdefault(match["key"], len(keys))
                kind = extensions.setdefault(match["extension"].lower(), len(extensions))
                if (sample, kind) in positions:
                    raise errors.InputError(
                        f"shard {errors.printable(path)} has '{errors.printable(member.name)}'"
                        " twice; write the shard again with a different key for each sample"
                    )
                positions[sample, kind] = member.offset_data, member.size
            end = tar.offset
    except tarfile.TarError as error:
        raise _damaged(path, str(error) or type(error).__name__) from error
    # The module tarfile takes a damaged header in the middle of a file for the end.
    if zeros > end:
        raise _damaged(path, f"there is no entry at byte {end:,}, but {state.size - end:,} follow")
    if state.size - end < _BLOCK:
        raise _damaged(path, "it has no mark of its end")
    table = np.array([(*pair, *place) for pair, place in positions.items()], np.int64)
    samples, kinds, offsets, sizes = table.reshape(-1, 4).T
    encoded = np.array([os.fsencode(key) for key in keys], np.bytes_)
    return Shard(path, state, digest, encoded, tuple(extensions), samples, kinds, offsets, sizes)


def _check_content(path: str, member: tarfile.TarInfo) -> None:
    """Raises an InputError for an entry whose content is not stored in one piece."""
    if not member.isreg() or member.issparse():
        kind = "a sparse file" if member.issparse() else "a link or a device"
        raise errors.InputError(
            f"shard {errors.printable(path)}: '{errors.printable(member.name)}' is {kind} without a"
            " content in one piece; write the shard again without --sparse and with --dereference"
            " --hard-dereference"
        )


def _damaged(path: str, reason: str) -> errors.InputError:
    return errors.InputError(
        f"shard {errors.printable(path)} is damaged or incomplete ({errors.printable(reason)});"
        " copy or write it again"
    )


def _digest(path: str) -> tuple[str, int]:
    """Returns a digest of a tar file, and the position behind its last byte that is not zero."""
    digest, position, end = hashlib.sha256(), 0, 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            if not position:
                _check_uncompressed(path, chunk)
            digest.update(chunk)
            if stripped := chunk.rstrip(b"\0"):
                end = position + len(stripped)
            position += len(chunk)
            interrupts.check()
    if not position:
        raise _damaged(path, "it is empty")
    return digest.hexdigest()[:32], end


def _check_uncompressed(path: str, content: bytes) -> None:
    for beginning, name in _COMPRESSED.items():
        if content.startswith(beginning):
            raise errors.InputError(
                f"shard {errors.printable(path)} is compressed with {name}, which has no random"
                " access; decompress it to a plain tar file"
            )


def _read(file: pathlib.Path, path: str, state: State) -> Shard | None:
    """Returns a stored index; None if it is missing, damaged or of another content."""
    try:
        with np.load(file) as stored:
            arrays = {name: stored[name] for name in stored.files}
        if arrays["state"].tolist() != [_FORMAT, *state]:
            return None
        return Shard(
            path, state, str(arrays["digest"]), arrays["keys"],
            tuple(map(str, arrays["extensions"])), arrays["samples"], arrays["kinds"],
            arrays["offsets"], arrays["sizes"],
        )  # fmt: skip
    # NumPy raises errors of many types for damaged files.
    except (OSError, ValueError, KeyError, EOFError, TypeError, zlib.error, zipfile.BadZipFile):
        return None


def _write(file: pathlib.Path, shard: Shard) -> None:
    """Stores an index, unless the folder cannot be written."""
    part = file.with_name(f"{file.stem}.{os.getpid()}.part.npz")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        arrays = shard._asdict() | {"state": np.array([_FORMAT, *shard.state])}
        del arrays["path"]
        np.savez(part, **arrays)
        part.replace(file)
    except OSError:
        part.unlink(missing_ok=True)
