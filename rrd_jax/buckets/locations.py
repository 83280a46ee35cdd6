"""URLs of buckets: the supported schemes, and paths in buckets with the methods of pathlib."""

import functools
import importlib.util
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from rrd_jax import errors

# The supported schemes, and the extra and the module of each.
_EXTRAS = {"gs": ("gcs", "gcsfs"), "s3": ("s3", "s3fs")}
# pathlib prints the two slashes of a URL as one.
_URL = re.compile(r"(?P<scheme>gs|s3):/+(?P<bucket>[^/]*)/*(?P<key>.*)", re.IGNORECASE | re.DOTALL)
_BUCKETS = {
    "gs": re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"),
    "s3": re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"),
}
# Characters that file systems of buckets interpret as patterns or versions.
_SPECIAL = "*?[]#"
# The longest name of an object, in bytes of UTF-8, less the names of files within a run.
_LONGEST_KEY = 700


class Location(NamedTuple):
    """The parts of the URL of a bucket.

    Attributes:
      scheme: "gs" or "s3".
      bucket: name of the bucket.
      key: the rest of the URL, without a slash at its ends; "" for the bucket itself.
    """

    scheme: str
    bucket: str
    key: str

    @property
    def url(self) -> str:
        """The URL without repeated slashes."""
        return f"{self.scheme}://{self.bucket}" + (f"/{self.key}" if self.key else "")


def parse(text: str) -> Location | None:
    """Returns the parts of a bucket's URL; None for any other text."""
    match = _URL.fullmatch(text)
    if not match:
        return None
    key = "/".join(part for part in match["key"].split("/") if part)
    return Location(match["scheme"].lower(), match["bucket"], key)


def problem(location: Location) -> str:
    """Returns why a URL cannot be a path in a bucket; "" if it can.

    The reason completes the sentence "PATH is 'TEXT', ...".
    """
    scheme, bucket, key = location
    if not _BUCKETS[scheme].fullmatch(bucket):
        return (
            f"whose bucket '{errors.printable(bucket)}' is not a valid name; write"
            f" {scheme}://BUCKET/FOLDER, where the bucket has 3 or more lowercase letters, digits,"
            " dots and hyphens"
        )
    if {".", ".."} & set(key.split("/")):
        return "whose path has a part '.' or '..', which buckets do not resolve; omit this part"
    if bad := [c for c in key if c in _SPECIAL or not c.isprintable()]:
        return (
            f"whose path has the character {bad[0]!r}, which buckets do not support; use another"
            " name"
        )
    if len(key.encode()) > _LONGEST_KEY:
        return f"whose path is longer than {_LONGEST_KEY} bytes; use a shorter name"
    return ""


def is_bucket(path: Any) -> bool:
    """Returns True for the path of an object or folder in a bucket."""
    return not isinstance(path, pathlib.Path) and parse(os.fspath(path)) is not None


def path(url: str) -> Any:
    """Returns the path of an object or folder in a bucket, with the methods of `pathlib.Path`.

    Raises:
      UnavailableError: the library of the scheme is not installed.
    """
    require(parse(url))
    return _path_class()(parse(url).url)


def require(location: Location) -> None:
    """Raises an UnavailableError if the library of a scheme is not installed."""
    extra, module = _EXTRAS[location.scheme]
    if importlib.util.find_spec(module) is None:
        raise errors.UnavailableError(
            f"{location.url} needs {module}, which is not installed; run pip install"
            f" 'rrd_jax[{extra}]'"
        )


@functools.cache
def _path_class() -> type:
    """Returns the class of paths in buckets; importing etils is slow for commands without one."""
    # With TensorFlow installed, etils would use its file systems, which have other credentials.
    os.environ.setdefault("EPATH_USE_TF", "false")
    from etils.epath import gpath

    from rrd_jax.buckets import filesystems

    filesystems.register()

    class BucketPath(gpath.PosixGPath):
        """A path in a bucket, as `etils.epath`, which resolves URLs like relative paths."""

        def absolute(self) -> "BucketPath":
            """Returns the path itself."""
            return self

        def resolve(self, strict: bool = False) -> "BucketPath":
            """Returns the path itself."""
            del strict
            return self

        def iterdir(self) -> Iterator["BucketPath"]:
            """Yields the files and folders in the folder, without markers of empty folders."""
            try:
                yield from (path for path in super().iterdir() if path != self)
            except FileNotFoundError:
                return

        def mkdir(self, *args: Any, **kwargs: Any) -> None:
            """Does nothing, because a folder exists as long as it has objects."""

        @property
        def parents(self) -> tuple["BucketPath", ...]:
            """The folders that contain the path, up to the bucket."""
            count = len(parse(str(self)).key.split("/")) if parse(str(self)).key else 0
            return tuple(super().parents)[:count]

        def __reduce__(self) -> Any:
            return path, (str(self),)

    return BucketPath
