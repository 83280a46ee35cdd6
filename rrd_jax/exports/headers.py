"""Headers: the classes, preprocessing and outputs of an exported file.

If a format has no field for a header, the header is a separate file next to the exported file, a
file in the exported folder, or appended to the exported file. An appended header is a ZIP archive,
like TFLite's metadata: readers of the graph skip the archive, and `unzip -p FILE labels.txt` prints
the class names. Appended headers and headers in folders hold digests of the graph.
"""

import hashlib
import io
import json
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from rrd_jax import errors
from rrd_jax.data import model_info
from rrd_jax.data.model_info import ModelInfo
from rrd_jax.exports.interface import Exportable, Options, version_of
from rrd_jax.run_folder import atomic_write, model_card

_RECORD = "model.json"
_LABELS = "labels.txt"
# Exceptions that the standard library raises for damaged archives and JSON.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, KeyError, NotImplementedError),
    *(OSError, OverflowError, RuntimeError, TypeError, ValueError),
)


class Header(NamedTuple):
    """The description of an exported file.

    Attributes:
      about: the network's description.
      format: name of the format.
      layout: layout of images, "NHWC" or "NCHW".
      takes: element type of images, "uint8" or, for normalized images, "float32".
      outputs: names of the outputs, in order.
    """

    about: ModelInfo
    format: str
    layout: str
    takes: str
    outputs: tuple[str, ...]


def header_of(
    exportable: Exportable, options: Options, name: str, outputs: Sequence[str], layout="NHWC"
) -> Header:
    """Returns the header for a file with the format `name`."""
    takes = "uint8" if options.embed_preprocessing else "float32"
    return Header(exportable.about, name, layout, takes, tuple(outputs))


def to_json(header: Header) -> str:
    """Returns the JSON text of a header."""
    return json.dumps(
        {
            "made_by": version_of("rrd_jax"),
            "format": header.format,
            "input": {"layout": header.layout, "type": header.takes},
            "outputs": list(header.outputs),
            "about": model_card.public(header.about).to_json(),
        }
    )


def from_json(text: str, location: str) -> Header:
    """Parses the text of `to_json`; raises an InputError for any other text."""
    try:
        content = json.loads(text)
        image = content["input"]
        about = model_info.from_json(content["about"], location)
        if about.preprocessing is None or image["layout"] not in ("NHWC", "NCHW"):
            raise ValueError("the preprocessing or the layout of images is missing")
        return Header(
            about, content["format"], image["layout"], image["type"], tuple(content["outputs"])
        )
    except errors.InputError:
        raise
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise errors.InputError(
            f"the header in {location} is damaged ({error}); export or copy it again"
        ) from error


def sidecar(path: pathlib.Path) -> pathlib.Path:
    """Returns the path of the separate header file of an exported file."""
    return path.with_name(f"{path.name}.json")


def write_graph(path: pathlib.Path, graph: bytes, header: Header) -> None:
    """Writes a graph with its header appended.

    Raises:
      DiskError: the file cannot be written.
    """
    record = {**json.loads(to_json(header)), "graph": [len(graph), _digest(graph)]}
    try:
        path.write_bytes(graph)
        with zipfile.ZipFile(path, "a") as archive:
            _add(archive, _RECORD, json.dumps(record))
            if names := header.about.class_names:
                _add(archive, _LABELS, "\n".join(map(errors.printable, names)) + "\n")
    except OSError as error:
        raise _disk_error(path, error) from error


def read_graph(path: pathlib.Path) -> tuple[bytes, Header]:
    """Reads a graph and the appended header.

    Raises:
      InputError: the file cannot be read, is damaged, or was not written by `write_graph`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise errors.InputError(f"{path} cannot be read ({error.strerror or error})") from error
    try:
        text = _read_record(io.BytesIO(content))
        length, digest = json.loads(text)["graph"]
        graph = content[:length]
    except _DAMAGE as error:
        raise errors.InputError(
            f"{path} has no header with classes and preprocessing: it is damaged, or was not"
            " written by rrd_jax.export; export it again"
        ) from error
    _check_digest(path, graph, digest)
    return graph, from_json(text, str(path))


def format_of(path: pathlib.Path) -> str:
    """Returns the format in a file's appended header; "" for any other file."""
    try:
        with path.open("rb") as file:
            return str(json.loads(_read_record(file))["format"])
    except _DAMAGE:
        return ""


def write_folder(folder: pathlib.Path, header: Header) -> None:
    """Writes a header, with digests of the folder's files, into an exported folder.

    Raises:
      DiskError: the file cannot be written.
    """
    try:
        files = {path.name: _digest(path.read_bytes()) for path in sorted(folder.iterdir())}
    except OSError as error:
        raise _disk_error(folder, error) from error
    record = {**json.loads(to_json(header)), "files": files}
    atomic_write.write_text(folder / _RECORD, json.dumps(record, indent=2) + "\n")


def read_folder(folder: pathlib.Path) -> Header:
    """Reads the header of an exported folder and verifies the folder's files.

    Raises:
      InputError: a file is missing or damaged.
    """
    path = folder / _RECORD
    try:
        text = path.read_text(encoding="utf-8")
        files = dict(json.loads(text)["files"])
    except (KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        raise errors.InputError(
            f"{folder} has no header with classes and preprocessing: {path.name} is missing or"
            " damaged; copy the whole folder, or export it again"
        ) from error
    for name, digest in files.items():
        try:
            content = (folder / pathlib.Path(name).name).read_bytes()
        except OSError as error:
            raise errors.InputError(
                f"{folder} lacks {name} ({error.strerror or error}); copy the whole folder"
            ) from error
        _check_digest(folder / name, content, digest)
    return from_json(text, str(path))


def _read_record(file) -> str:
    with zipfile.ZipFile(file) as archive:
        if archive.testzip() is not None:
            raise zipfile.BadZipFile
        return archive.read(_RECORD).decode("utf-8")


def _add(archive: zipfile.ZipFile, name: str, text: str) -> None:
    # ZipInfo's default date, 1980, makes exports of a network reproducible.
    archive.writestr(zipfile.ZipInfo(name), text)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check_digest(path: pathlib.Path, content: bytes, digest: object) -> None:
    if _digest(content) != digest:
        raise errors.InputError(
            f"{path} is damaged: its digest does not match; copy or export it again"
        )


def _disk_error(path: pathlib.Path, error: OSError) -> errors.DiskError:
    return errors.DiskError(
        f"{path} cannot be written ({error.strerror or error}); free disk space or correct the"
        " path, and export again"
    )
