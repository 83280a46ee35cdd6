"""Files that say what they are: a graph, and behind it class names, preprocessing and a digest.

What stands behind the graph is a ZIP archive, as TFLite's metadata has it: readers of the graph
pass over it, and `unzip -p FILE labels.txt` shows the class names.
"""

import hashlib
import io
import json
import pathlib
import struct
import zipfile
import zlib

from rrd_jax import errors
from rrd_jax.exports.base import Header, header_from_json, header_to_json
from rrd_jax.run_folder import report

_RECORD = "model.json"
_LABELS = "labels.txt"
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, KeyError, NotImplementedError),
    *(OSError, OverflowError, RuntimeError, TypeError, ValueError),
)


def write(path: pathlib.Path, graph: bytes, header: Header) -> None:
    """Writes a graph with what is known of it.

    Raises:
      DiskError: it cannot be written.
    """
    record = {**json.loads(header_to_json(header)), "graph": [len(graph), _digest(graph)]}
    try:
        path.write_bytes(graph)
        with zipfile.ZipFile(path, "a") as archive:
            _add(archive, _RECORD, json.dumps(record))
            if names := header.about.class_names:
                _add(archive, _LABELS, "\n".join(map(errors.printable, names)) + "\n")
    except OSError as error:
        raise _unwritten(path, error) from error


def read(path: pathlib.Path) -> tuple[bytes, Header]:
    """The graph of such a file, and what is known of it.

    Raises:
      InputError: it cannot be read, is damaged, or was not written by `write`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise errors.InputError(f"{path} cannot be read ({error.strerror or error})") from error
    try:
        text = _record(io.BytesIO(content))
        length, digest = json.loads(text)["graph"]
        graph = content[:length]
    except _DAMAGE as error:
        raise errors.InputError(
            f"{path} does not say what classes and images it is for: it is damaged, or was not"
            " written by rrd_jax.export"
        ) from error
    _compare(path, graph, digest)
    return graph, header_from_json(text, str(path))


def format_of(path: pathlib.Path) -> str:
    """The format that such a file says it has; "" for any other file."""
    try:
        with path.open("rb") as file:
            return str(json.loads(_record(file))["format"])
    except _DAMAGE:
        return ""


def write_folder(folder: pathlib.Path, header: Header) -> None:
    """Writes into a folder what is known of the graph there, with digests of its files.

    Raises:
      DiskError: it cannot be written.
    """
    try:
        files = {path.name: _digest(path.read_bytes()) for path in sorted(folder.iterdir())}
    except OSError as error:
        raise _unwritten(folder, error) from error
    record = {**json.loads(header_to_json(header)), "files": files}
    report.write_whole(folder / _RECORD, json.dumps(record, indent=2) + "\n")


def read_folder(folder: pathlib.Path) -> Header:
    """What is known of the graph in such a folder.

    Raises:
      InputError: a file is missing or damaged.
    """
    path = folder / _RECORD
    try:
        text = path.read_text(encoding="utf-8")
        files = dict(json.loads(text)["files"])
    except (KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        raise errors.InputError(
            f"{folder} does not say what classes and images it is for: {path.name} in it is missing"
            " or damaged"
        ) from error
    for name, digest in files.items():
        try:
            content = (folder / pathlib.Path(name).name).read_bytes()
        except OSError as error:
            raise errors.InputError(
                f"{folder} lacks {name} ({error.strerror or error}): copy the whole folder"
            ) from error
        _compare(folder / name, content, digest)
    return header_from_json(text, str(path))


def _record(file) -> str:
    with zipfile.ZipFile(file) as archive:
        if archive.testzip() is not None:
            raise zipfile.BadZipFile
        return archive.read(_RECORD).decode("utf-8")


def _add(archive: zipfile.ZipFile, name: str, text: str) -> None:
    archive.writestr(zipfile.ZipInfo(name), text)  # dated 1980: the same network, the same bytes


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _compare(path: pathlib.Path, content: bytes, digest: object) -> None:
    if _digest(content) != digest:
        raise errors.InputError(
            f"{path} is damaged: it is not what was written; copy or export it again"
        )


def _unwritten(path: pathlib.Path, error: OSError) -> errors.DiskError:
    return errors.DiskError(
        f"{path} cannot be written ({error.strerror or error}); make room or mend that, and export"
        " again"
    )
