"""Paths that users name: checks, ~ for the home folder, and reads that always end."""

import codecs
import json
import os
import pathlib
import re
import stat
from typing import Any

from rrd_jax import buckets, errors, hub

# Stands before the path of a folder of transformers or a data set of Hugging Face.
PREFIX = "hf:"
# A URL, or a URL as pathlib prints it, with one slash. Windows drives have a single letter.
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+):(?P<slashes>/+)(?P<rest>.*)", re.IGNORECASE)
# URLs without a slash, whose scheme is not the name of a folder by chance.
_SHORT_URL = re.compile(
    r"(?P<scheme>gs|gcs|s3|s3a|az|abfs|adl|hdfs|https?|ftp|memory|file):(?P<slashes>)(?P<rest>.+)",
    re.IGNORECASE,
)
_NO_REPOSITORY = (
    "a repository of the Hugging Face Hub, but must be a path on this machine; download the"
    " repository with `hf download` and pass its folder"
)
_SPECIAL = {stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
# The largest list or JSON file that is read, in bytes.
LARGEST_TEXT = 2**28
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def expanded(path: str) -> str:
    """Returns a path with the home folder in place of ~ or ~USER; an existing path is unchanged."""
    prefix = PREFIX if path.startswith(PREFIX) else ""
    if "\0" in path or os.path.lexists(path):
        return path
    return prefix + os.path.expanduser(path.removeprefix(PREFIX))


def problem(
    path: str, *, special: bool = False, bucket: bool = False, repository: bool = False
) -> str:
    """Returns why a text cannot be the path of a file or folder; "" if it can.

    The reason completes the sentence "PATH is 'TEXT', ...".

    Args:
      path: the text, which may start with "hf:".
      special: whether a pipe or device is accepted, as for output.
      bucket: whether the URL of a bucket is accepted.
      repository: whether the name of a repository of the Hugging Face Hub is accepted.
    """
    if "\0" in path:
        return "a path with a null byte; remove the byte"
    if not _is_utf8(path):
        return "a path that is not valid UTF-8; rename the file or folder"
    if hub.is_name(path):
        return hub.problem(path) if repository else _NO_REPOSITORY
    if url := url_problem(path, bucket=bucket):
        return url
    if bucket_url(path):
        return ""
    bare = expanded(path).removeprefix(PREFIX)
    if bare.startswith("~") and not os.path.lexists(bare):
        return "the home folder of an unknown user; to name a file that starts with ~, write ./~"
    return "" if special else _special_problem(bare)


def url_problem(path: str, *, bucket: bool = False) -> str:
    """Returns the problem of a URL; "" for any other text.

    Args:
      path: the text.
      bucket: whether the URL of a bucket is accepted.
    """
    is_prefixed = path.startswith(PREFIX) and not path.startswith(f"{PREFIX}//")
    bare = path.removeprefix(PREFIX) if is_prefixed else path
    match = _URL.fullmatch(bare) or _SHORT_URL.fullmatch(bare)
    # A colon is allowed in the name of a folder.
    if not match or (len(match["slashes"]) < 2 and os.path.lexists(match[0])):
        return ""
    url = f"{match['scheme']}://{match['rest']}"
    location = None if is_prefixed else bucket_url(path)
    if bucket and location:
        return buckets.problem(location)
    if bucket:
        return (
            f"a URL ({url}), but must be a path on this machine or in a bucket, gs://BUCKET/PATH or"
            " s3://BUCKET/PATH; other URLs are not read: download the file or folder and pass its"
            " path"
        )
    if location:
        return (
            f"a URL ({url}), but must be a path on this machine, because this place does not"
            " support buckets; copy the file or folder between this machine and the bucket"
        )
    return (
        f"a URL ({url}), but must be a path on this machine; URLs are not downloaded: download the"
        " file or folder and pass its path"
    )


def bucket_url(path: str) -> buckets.Location | None:
    """Returns the parts of the URL of a bucket; None for any other text, and for local paths."""
    location = buckets.parse(path)
    is_local = "://" not in path and os.path.lexists(path)
    return None if is_local else location


def path_of(text: str) -> Any:
    """Returns the path that a checked text names: in a bucket, or on this machine."""
    return buckets.path(text) if bucket_url(text) else pathlib.Path(text)


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    # Python represents other bytes by surrogates.
    except UnicodeEncodeError:
        return False
    return True


def _special_problem(path: str) -> str:
    """Returns the problem of an existing pipe, socket or device, whose reads may never end."""
    try:
        mode = os.stat(path).st_mode
    # The code that reads the file reports that the file is missing or not accessible.
    except (OSError, ValueError):
        return ""
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ""
    kind = next((name for is_kind, name in _SPECIAL.items() if is_kind(mode)), "a device")
    return f"{kind}, but must be a regular file or a folder; copy the content to a file"


def parse(path: Any, name: str, *, bucket: bool = False, repository: bool = False) -> Any:
    """Returns the path that a user's argument names.

    Args:
      path: the argument, text or a path.
      name: name of the argument, for messages.
      bucket: whether the URL of a bucket is accepted.
      repository: whether the name of a repository of the Hugging Face Hub is accepted.

    Returns:
      A `pathlib.Path`, also for a repository, or an `etils.epath.Path` with the same methods for
      the URL of a bucket.

    Raises:
      FieldError: the argument is not a path of a regular file or a folder.
      UnavailableError: the library of the bucket is not installed.
    """
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise errors.FieldError(f"{name} is of type {type(path).__name__}, but must be a path")
    text = os.fspath(path)
    if not text:
        raise errors.FieldError(f"{name} is '', but must be the path of a file or folder")
    if reason := problem(text, bucket=bucket, repository=repository):
        raise errors.FieldError(f"{name} is '{errors.printable(text)}', {reason}")
    return path_of(expanded(text))


def read_text(path: pathlib.Path) -> str:
    """Reads a text file; see `decode`.

    Raises:
      OSError: the file cannot be read, is not a regular file, or is larger than `LARGEST_TEXT`.
      ValueError: the file is not text.
    """
    if buckets.is_bucket(path):
        return decode(buckets.read(path))
    # With O_NONBLOCK, opening a pipe without a writer returns immediately.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(0, "it is not a regular file", str(path))
        content = file.read(LARGEST_TEXT + 1)
    if len(content) > LARGEST_TEXT:
        raise OSError(0, f"it has more than {LARGEST_TEXT >> 20} MiB", str(path))
    return decode(content)


def read_json(path: pathlib.Path) -> Any:
    """Reads a JSON file; raises an OSError, or a ValueError if the file is not valid JSON."""
    try:
        return json.loads(read_text(path))
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error


def read_object(path: pathlib.Path) -> dict[str, Any] | None:
    """Reads a JSON object; None if the file is missing, damaged or holds another value."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def decode(content: bytes) -> str:
    """Decodes UTF-8, or UTF-16 with a byte order mark.

    Raises:
      ValueError: the content is in another encoding.
    """
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            return content.removeprefix(mark).decode(encoding)
    text = content.decode("utf-8")
    if "\0" in text:
        raise ValueError("it contains null bytes; save it as text in UTF-8")
    return text
