"""Finds, verifies and reads the archives that authors of data sets publish."""

import contextlib
import dataclasses
import hashlib
import pathlib
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import ClassVar

import tensorflow_datasets as tfds
import tqdm

from rrd_jax import errors
from rrd_jax.data.builders import ordered

_DAMAGES = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError)


@dataclasses.dataclass(frozen=True)
class Archive:
    """A published file.

    Attributes:
      name: of the file, as published.
      url: where it is published.
      size: in bytes.
      algorithm: of its digest, as hashlib names it.
      digest: hexadecimal.
    """

    name: str
    url: str
    size: int
    algorithm: str
    digest: str


class ArchivedBuilder(ordered.OrderedBuilder, skip_registration=True):
    """A builder that reads published archives.

    Attributes:
      ARCHIVES: what must lie in `manual_dir`.
    """

    ARCHIVES: ClassVar[tuple[Archive, ...]]

    def _paths(self) -> list[pathlib.Path]:
        folder = pathlib.Path(self.manual_dir)
        return [find(archive, folder, verify=self.verify) for archive in self.ARCHIVES]


def registered(stock: type[tfds.core.DatasetBuilder]) -> tuple[Archive, ...]:
    """Returns the archives of a builder of TFDS, which registers their sha256."""
    return tuple(
        Archive(url.rpartition("/")[2], url, int(info.size), "sha256", info.checksum)
        for url, info in stock.url_infos.items()
    )


def find(archive: Archive, folder: pathlib.Path, *, verify: bool) -> pathlib.Path:
    """Returns the path of an archive in a folder after verification.

    Raises:
      InputError: it is missing, or another file than the published one.
    """
    path = folder / archive.name
    if not path.is_file():
        raise errors.InputError(
            f"{path} is missing: put {archive.name} ({archive.url}) into {folder}, or name the"
            " folder where it is with --manual_dir"
        )
    if not verify:
        return path
    size = path.stat().st_size
    if size != archive.size:  # Seconds instead of minutes for a broken download of ImageNet.
        difference = f"has {size} bytes, not {archive.size}"
    elif (digest := _digest(path, archive.algorithm)) != archive.digest:
        difference = f"has {archive.algorithm} {digest}, not {archive.digest}"
    else:
        return path
    raise errors.InputError(
        f"{path} {difference}, so it is cut off or not the published file: fetch it again from"
        f" {archive.url}, or accept it as it is with --no_verify"
    )


def _digest(path: pathlib.Path, algorithm: str) -> str:
    bar = tqdm.tqdm(
        desc=f"verifying {path.name}", total=path.stat().st_size, unit="B", unit_scale=True,
        leave=False, disable=None,
    )  # fmt: skip
    digest = hashlib.new(algorithm)
    with path.open("rb") as file, bar:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


@contextlib.contextmanager
def reading(path: pathlib.Path, url: str) -> Iterator[None]:
    """Raises the errors of a damaged archive as an InputError that names it."""
    try:
        yield
    except errors.InputError:
        raise
    except (*_DAMAGES, KeyError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise errors.InputError(
            f"{path} cannot be read ({reason}): fetch it again from {url}"
        ) from error


@dataclasses.dataclass
class TarSlices:
    """Files that lie uncompressed inside a tar, or inside tars in it, read in any order.

    Attributes:
      path: of the tar.
      names: of the files.
      offsets: where their bytes begin.
      sizes: how many they are.
    """

    path: pathlib.Path
    names: list[str] = dataclasses.field(default_factory=list)
    offsets: list[int] = dataclasses.field(default_factory=list)
    sizes: list[int] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        self._file = self.path.open("rb")

    def add(self, tar: tarfile.TarFile, start: int = 0) -> None:
        """Adds the files of a tar that begins `start` bytes into this one."""
        for member in tar:
            if member.isfile():
                self.names.append(posixpath.normpath(member.name))
                self.offsets.append(start + member.offset_data)
                self.sizes.append(member.size)

    def read(self, i: int) -> bytes:
        """The bytes of file i."""
        self._file.seek(self.offsets[i])
        content = self._file.read(self.sizes[i])
        if len(content) != self.sizes[i]:
            raise EOFError(f"{self.names[i]} is cut off")
        return content
