"""Predictions as text, CSV, JSON lines, NumPy's npz or Parquet, written as they come."""

import contextlib
import csv
import fcntl
import io
import json
import os
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple, TextIO

import numpy as np

from rrd_jax import errors
from rrd_jax.library import Predictions
from rrd_jax.predict import parquet
from rrd_jax.terminal import console

Write = Callable[[Predictions], None]


class Content(NamedTuple):
    """What is written of each image.

    Attributes:
      top: how many classes.
      logits: whether the logits of all classes.
      embeddings: whether the network's embedding.
    """

    top: int = 5
    logits: bool = False
    embeddings: bool = False

    def arrays(self, part: Predictions) -> dict[str, np.ndarray]:
        """By name: [N, ...] float32."""
        found = {"logits": part.logits} if self.logits else {}
        # Where no image could be read, nobody knows how long an embedding is.
        has_embeddings = self.embeddings and part.embeddings is not None
        return found | ({"embeddings": part.embeddings} if has_embeddings else {})


def text(part: Predictions, content: Content) -> Iterator[str]:
    """A line an image: its file, and the classes with their probability in per cent."""
    for file, guesses in zip(part.files, part.top(content.top), strict=True):
        shown = (f"{errors.printable(g.name)} {100 * g.probability:.2f} %" for g in guesses)
        yield f"{errors.printable(file)}: {', '.join(shown)}\n"


def jsonl(part: Predictions, content: Content) -> Iterator[str]:
    """A JSON object a line: `file`, `top`, and `logits` and `embedding` where they are wanted."""
    arrays = content.arrays(part)
    for i, guesses in enumerate(part.top(content.top)):
        top = [
            {"class": g.name, "label": g.label, "probability": _shortest(g.probability)}
            for g in guesses
        ]
        row = {"file": part.files[i]} | ({"top": top} if part.class_names else {})
        for name, key in (("logits", "logits"), ("embeddings", "embedding")):
            if name in arrays:
                row[key] = list(map(_shortest, arrays[name][i]))
        yield json.dumps(row, ensure_ascii=False) + "\n"


def table(part: Predictions, content: Content) -> Iterator[str]:
    """Rows of CSV."""
    arrays = content.arrays(part)
    for i, guesses in enumerate(part.top(content.top)):
        cells = [part.files[i]]
        for guess in guesses:
            cells += [guess.label, guess.name, _shortest(guess.probability)]
        for array in arrays.values():
            cells += map(_shortest, array[i])
        yield _row(cells)


def header(part: Predictions, content: Content) -> str:
    """The first row of CSV."""
    cells = ["file"]
    for rank in range(1, min(content.top, len(part.class_names)) + 1):
        cells += [f"label_{rank}", f"class_{rank}", f"probability_{rank}"]
    for name, array in content.arrays(part).items():
        cells += [f"{name.removesuffix('s')}_{i}" for i in range(array.shape[-1])]
    return _row(cells)


def _row(cells: list[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _shortest(value: Any) -> float:
    """The float with the fewest digits that is this float32."""
    return float(str(np.float32(value)))


_LINES = {"text": text, "csv": table, "jsonl": jsonl}
_FILES = ("npz", "parquet")  # no text: each is a file of its own
FORMATS = (*_LINES, *_FILES)


@contextlib.contextmanager
def opened(
    form: str, content: Content, output: pathlib.Path | None, stdout: TextIO
) -> Iterator[Write]:
    """A function that writes predictions, part after part, as long as it lasts.

    Args:
      form: one of FORMATS.
      content: what is written.
      output: the file, which appears when all is written; None for standard output.
      stdout: that.

    Raises:
      InputError: the file is there already, or its folder is not; or what is no text is to go to
        standard output.
      UnavailableError: pyarrow, which writes Parquet, is not installed.
      UnreadError: nobody reads standard output any more.
      DiskError: the disk takes nothing more.
    """
    check_form(form, output)
    with contextlib.ExitStack() as stack:
        if form == "npz":
            file = stack.enter_context(_file(output))
            columns = stack.enter_context(contextlib.closing(_Columns(content, output.parent)))
            yield columns.write
            columns.finish(file)
        elif form == "parquet":
            file = stack.enter_context(_file(output))
            rows = stack.enter_context(contextlib.closing(parquet.Rows(file)))
            yield lambda part: rows.write(part, content.arrays(part))
            rows.finish()
        else:
            yield _lines(form, content, stack.enter_context(stream(form, output, stdout)))


def check_form(form: str, output: pathlib.Path | None) -> None:
    """Raises an InputError for a form that cannot be written."""
    if form in _FILES and output is None:
        raise errors.InputError(f"--format={form} is no text: name a file with --output")
    if form == "parquet":
        parquet.check_installed()


@contextlib.contextmanager
def stream(
    form: str, output: pathlib.Path | None, stdout: TextIO
) -> Iterator[Callable[[str], Any]]:
    """A function that writes lines, as long as it lasts; arguments and errors are `opened`'s."""
    if output is None:
        if isinstance(stdout, io.TextIOWrapper) and form != "text":
            stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
        yield lambda line: console.write(line, stdout)
        return
    with _file(output) as file:
        text_file = io.TextIOWrapper(file, "utf-8", "backslashreplace", newline="")
        yield text_file.write
        text_file.flush()
        text_file.detach()


def _lines(form: str, content: Content, put: Callable[[str], Any]) -> Write:
    begun = form != "csv"

    def write(part: Predictions) -> None:
        nonlocal begun
        lines = "".join(_LINES[form](part, content))
        put(lines if begun else header(part, content) + lines)
        begun = True

    return write


@contextlib.contextmanager
def _file(path: pathlib.Path) -> Iterator[io.BufferedWriter]:
    """A file under another name, which gets its own when all goes well, or else is removed.

    A device or a pipe, such as /dev/null, is written to as it is.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        with _writable(path, path) as file:
            yield file
        return
    _check_free(path)
    part = path.with_name(f"{path.name}.part")
    with _writable(part, path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise errors.InputError(
                f"--output={path} is being written by another command"
            ) from error
        except OSError:  # of a file system without locks
            pass
        yield from _written(file, part, path)


def _written(
    file: io.BufferedWriter, part: pathlib.Path, path: pathlib.Path
) -> Iterator[io.BufferedWriter]:
    """The file, of the name `part`, which gets the name `path` once it is written."""
    try:
        file.truncate(0)  # what a command left that was killed
        yield file
        file.flush()
        _check_free(path)
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def _check_free(path: pathlib.Path) -> None:
    if os.path.lexists(path):
        raise errors.InputError(f"--output={path} is there already: remove it, or name another")


def _writable(path: pathlib.Path, output: pathlib.Path) -> io.BufferedWriter:
    """A file to write to, with what is in it so far: somebody else may be writing it."""

    def keep(name: str, options: int) -> int:
        return os.open(name, options & ~os.O_TRUNC, 0o666)

    try:
        return open(path, "wb", opener=keep)
    except OSError as error:
        raise errors.InputError(
            f"--output={output} cannot be written ({error.strerror or error})"
        ) from error


class _Columns:
    """Arrays that grow by rows on disk, and then become one npz file.

    Args:
      content: what is written.
      folder: on a disk that has room.
    """

    def __init__(self, content: Content, folder: pathlib.Path):
        self._content, self._folder = content, folder
        self._open = contextlib.ExitStack()
        self._files: list[str] = []
        self._class_names: tuple[str, ...] = ()
        self._parts: dict[str, Any] = {}
        self._shapes: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}

    def write(self, part: Predictions) -> None:
        self._class_names = part.class_names
        self._files += part.files
        arrays = {}
        if part.class_names:
            arrays = {"labels": part.labels, "probabilities": part.probabilities}
        for name, array in (arrays | self._content.arrays(part)).items():
            if name not in self._parts:
                self._parts[name] = self._open.enter_context(_temporary(self._folder))
                self._shapes[name] = (array.dtype, array.shape[1:])
            self._parts[name].write(np.ascontiguousarray(array).data)

    def finish(self, file: io.BufferedWriter) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, part in self._parts.items():
                dtype, shape = self._shapes[name]
                description = {
                    "descr": np.lib.format.dtype_to_descr(dtype),
                    "fortran_order": False,
                    "shape": (len(self._files), *shape),
                }
                part.seek(0)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array_header_1_0(entry, description)
                    shutil.copyfileobj(part, entry)
            for name, words in (("files", self._files), ("class_names", self._class_names)):
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.array(words, dtype=np.str_))

    def close(self) -> None:
        self._open.close()


def _temporary(folder: pathlib.Path) -> BinaryIO:
    return tempfile.TemporaryFile(dir=folder)
