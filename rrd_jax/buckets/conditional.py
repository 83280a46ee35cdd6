"""Objects with versions, and writes that succeed only if the version is the expected one."""

import datetime
import email.utils
import json
import uuid
from typing import Any, NamedTuple

from rrd_jax.buckets import filesystems, locations


class Stored(NamedTuple):
    """The content of an object.

    Attributes:
      content: the content.
      version: the generation of an object of gs://, the ETag of an object of s3://.
      age: seconds since the object was written, by the server's clock.
    """

    content: bytes
    version: Any
    age: float


def read(path: Any) -> Stored | None:
    """Returns an object with its version; None if it is missing."""
    location = locations.parse(str(path))
    filesystem = filesystems.open_filesystem(location.scheme)
    try:
        return (_read_gcs if location.scheme == "gs" else _read_s3)(filesystem, location)
    except FileNotFoundError:
        return None


def write(path: Any, content: bytes, version: Any) -> Any:
    """Writes an object that still has a version.

    Args:
      path: path of the object.
      content: the content, which must differ from earlier content.
      version: the version that `read` or `write` returned; None for an object that is missing.

    Returns:
      The new version; None if the object has another version, and was not written.
    """
    location = locations.parse(str(path))
    filesystem = filesystems.open_filesystem(location.scheme)
    try:
        return (_write_gcs if location.scheme == "gs" else _write_s3)(
            filesystem, location, content, version
        )
    except (FileExistsError, FileNotFoundError):
        return None


def _read_gcs(filesystem: Any, location: locations.Location) -> Stored:
    address = "b/{}/o/{}", location.bucket, location.key
    headers, body = filesystem.call("GET", *address)
    info = json.loads(body)
    # The object may be replaced between the two requests.
    _, content = filesystem.call("GET", *address, alt="media", generation=info["generation"])
    updated = datetime.datetime.fromisoformat(info["updated"])
    return Stored(content, str(info["generation"]), _age(updated, headers.get("Date")))


def _write_gcs(filesystem: Any, location: locations.Location, content: bytes, version: Any) -> str:
    boundary = uuid.uuid4().hex
    start, end = f"--{boundary}\r\nContent-Type: application/json\r\n\r\n", f"\r\n--{boundary}--"
    metadata = json.dumps({"name": location.key}) + "\r\n"
    info = filesystem.call(
        "POST",
        f"{filesystem.base.removesuffix('/storage/v1/')}/upload/storage/v1/b/{location.bucket}/o",
        uploadType="multipart",
        ifGenerationMatch=version or "0",
        headers={"Content-Type": f"multipart/related; boundary={boundary}"},
        data=(start + metadata + start).encode() + content + end.encode(),
        json_out=True,
    )
    return str(info["generation"])


def _read_s3(filesystem: Any, location: locations.Location) -> Stored:
    answer = filesystem.call_s3("head_object", Bucket=location.bucket, Key=location.key)
    content = filesystem.cat_file(f"{location.bucket}/{location.key}")
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return Stored(content, answer["ETag"], _age(answer["LastModified"], date))


def _write_s3(filesystem: Any, location: locations.Location, content: bytes, version: Any) -> str:
    condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
    answer = filesystem.call_s3(
        "put_object", Bucket=location.bucket, Key=location.key, Body=content, **condition
    )
    return answer["ETag"]


def _age(written: datetime.datetime, date: str | None) -> float:
    """Returns the seconds from a time to the date of an answer."""
    now = email.utils.parsedate_to_datetime(date) if date else None
    now = now or datetime.datetime.now(datetime.UTC)
    return max((now - written).total_seconds(), 0.0)
