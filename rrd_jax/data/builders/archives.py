"""Finds, verifies and reads the published archives of data sets."""

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
    """A published archive.

    Attributes:
      name: name of the file.
      url: address of the file.
      size: size in bytes.
      algorithm: algorithm of the digest, a name in hashlib.
      digest: hexadecimal digest.
    """

    name: str
    url: str
    size: int
    algorithm: str
    digest: str


class ArchivedBuilder(ordered.OrderedBuilder, skip_registration=True):
    """A builder that reads published archives.

    Attributes:
      ARCHIVES: archives that `manual_dir` must contain.
    """

    ARCHIVES: ClassVar[tuple[Archive, ...]]

    def _paths(self) -> list[pathlib.Path]:
        folder = pathlib.Path(self.manual_dir)
        return [find(archive, folder, verify=self.verify) for archive in self.ARCHIVES]


def registered(stock: type[tfds.core.DatasetBuilder]) -> tuple[Archive, ...]:
    """Returns the archives of a TFDS builder, with the sha256 that TFDS registers."""
    return tuple(
        Archive(url.rpartition("/")[2], url, int(info.size), "sha256", info.checksum)
        for url, info in stock.url_infos.items()
    )


def find(archive: Archive, folder: pathlib.Path, *, verify: bool) -> pathlib.Path:
    """Returns the path of an archive in a folder, after verification.

    Raises:
      InputError: the archive is missing, or differs from the published file.
    """
    path = folder / archive.name
    if not path.is_file():
        raise errors.InputError(
            f"{path} is missing; put {archive.name} ({archive.url}) into {folder}, or set"
            " --manual_dir to the folder that contains it"
        )
    if not verify:
        return path
    size = path.stat().st_size
    # The comparison of sizes detects an incomplete download of ImageNet without hashing it.
    if size != archive.size:
        difference = f"has {size} bytes, not {archive.size}"
    elif (digest := _digest(path, archive.algorithm)) != archive.digest:
        difference = f"has {archive.algorithm} {digest}, not {archive.digest}"
    else:
        return path
    raise errors.InputError(
        f"{path} {difference}, so it is incomplete or not the published file; download it again"
        f" from {archive.url}, or pass --no_verify to skip the verification"
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
    """Converts the errors of a damaged archive to an InputError that names the archive."""
    try:
        yield
    except errors.InputError:
        raise
    except (*_DAMAGES, KeyError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise errors.InputError(
            f"{path} cannot be read ({reason}); download it again from {url}"
        ) from error


@dataclasses.dataclass
class TarSlices:
    """Random access to the files in an uncompressed tar, including tars inside it.

    Attributes:
      path: path of the tar.
      names: names of the files.
      offsets: offsets of the files in bytes.
      sizes: sizes of the files in bytes.
    """

    path: pathlib.Path
    names: list[str] = dataclasses.field(default_factory=list)
    offsets: list[int] = dataclasses.field(default_factory=list)
    sizes: list[int] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        self._file = self.path.open("rb")

    def add(self, tar: tarfile.TarFile, start: int = 0) -> None:
        """Adds the files of a tar that starts at byte `start` of this tar."""
        for member in tar:
            if member.isfile():
                self.names.append(posixpath.normpath(member.name))
                self.offsets.append(start + member.offset_data)
                self.sizes.append(member.size)

    def read(self, i: int) -> bytes:
        """Reads the bytes of file i."""
        self._file.seek(self.offsets[i])
        content = self._file.read(self.sizes[i])
        if len(content) != self.sizes[i]:
            raise EOFError(f"{self.names[i]} is incomplete")
        return content
