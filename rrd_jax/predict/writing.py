"""Writes predictions batch by batch, as text, CSV, JSON Lines, npz or Parquet."""

import contextlib
import csv
import fcntl
import io
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TextIO

import numpy as np

from rrd_jax import errors
from rrd_jax.library import Predictions
from rrd_jax.predict import npz, parquet
from rrd_jax.terminal import console

Write = Callable[[Predictions], None]


class Content(NamedTuple):
    """The values that are written for each image.

    Attributes:
      top: the number of most probable classes.
      logits: whether to write the logits of all classes.
      embeddings: whether to write the embedding.
      patches: whether to write the patches, which only npz can store.
    """

    top: int = 5
    logits: bool = False
    embeddings: bool = False
    patches: bool = False

    def arrays(self, part: Predictions) -> dict[str, np.ndarray]:
        """Returns the requested arrays by name: [N, width] float32, and patches [N, h, w, D]."""
        arrays = {"logits": part.logits} if self.logits else {}
        # The size of an embedding is unknown if no image could be read.
        if self.embeddings and part.embeddings is not None:
            arrays["embeddings"] = part.embeddings
        if self.patches and part.patches is not None:
            arrays["patches"] = part.patches
        return arrays


def text_lines(part: Predictions, content: Content) -> Iterator[str]:
    """Yields one line per image: the file, and classes with their probabilities in percent."""
    for file, guesses in zip(part.files, part.top(content.top), strict=True):
        classes = (f"{errors.printable(g.name)} {100 * g.probability:.2f} %" for g in guesses)
        yield f"{errors.printable(file)}: {', '.join(classes)}\n"


def json_lines(part: Predictions, content: Content) -> Iterator[str]:
    """Yields one JSON object per image: `file`, `top`, and optionally `logits`, `embedding`."""
    arrays = content.arrays(part)
    for i, guesses in enumerate(part.top(content.top)):
        top = [
            {"class": g.name, "label": g.label, "probability": shortest_float(g.probability)}
            for g in guesses
        ]
        row = {"file": part.files[i]} | ({"top": top} if part.class_names else {})
        for name, key in (("logits", "logits"), ("embeddings", "embedding")):
            if name in arrays:
                row[key] = list(map(shortest_float, arrays[name][i]))
        yield json.dumps(row, ensure_ascii=False) + "\n"


def csv_rows(part: Predictions, content: Content) -> Iterator[str]:
    """Yields one CSV row per image."""
    arrays = content.arrays(part)
    for i, guesses in enumerate(part.top(content.top)):
        cells = [part.files[i]]
        for guess in guesses:
            cells += [guess.label, guess.name, shortest_float(guess.probability)]
        for array in arrays.values():
            cells += map(shortest_float, array[i])
        yield csv_row(cells)


def csv_header(part: Predictions, content: Content) -> str:
    """Returns the CSV row with the column names."""
    cells = ["file"]
    for rank in range(1, min(content.top, len(part.class_names)) + 1):
        cells += [f"label_{rank}", f"class_{rank}", f"probability_{rank}"]
    for name, array in content.arrays(part).items():
        cells += [f"{name.removesuffix('s')}_{i}" for i in range(array.shape[-1])]
    return csv_row(cells)


def csv_row(cells: Iterable[Any]) -> str:
    """Returns cells as a CSV row."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def shortest_float(value: Any) -> float:
    """Returns the float with the fewest digits that rounds to this float32."""
    return float(str(np.float32(value)))


_LINES = {"text": text_lines, "csv": csv_rows, "jsonl": json_lines}
# Binary formats need a file.
_BINARY = ("npz", "parquet")
FORMATS = (*_LINES, *_BINARY)


@contextlib.contextmanager
def open_writer(
    form: str,
    content: Content,
    output: pathlib.Path | None,
    stdout: TextIO,
    shard_size: int | None = None,
) -> Iterator[Write]:
    """Yields a function that writes the predictions of a batch.

    Args:
      form: one of FORMATS.
      content: the values to write.
      output: the file, which is created once it is complete; None for standard output.
      stdout: standard output.
      shard_size: for npz, the number of images per file in the folder `output`; None for one file.

    Raises:
      InputError: the file exists, its folder does not, or a binary format has no file.
      UnavailableError: the format is Parquet, and pyarrow is not installed.
      UnreadError: the reader of standard output has closed the pipe.
      DiskError: the disk is full or cannot be written.
    """
    if form in _BINARY and output is None:
        raise errors.InputError(f"--format={form} is binary; name a file with --output")
    if form == "parquet":
        parquet.check_installed()
    with contextlib.ExitStack() as stack:
        if form == "npz" and shard_size:
            folder = stack.enter_context(_temporary_folder(output))
            shards = npz.Shards(content.arrays, folder, shard_size)
            stack.callback(shards.close)
            yield shards.write
            shards.finish()
        elif form == "npz":
            file = stack.enter_context(_temporary_file(output))
            columns = npz.Columns(content.arrays, output.parent)
            stack.callback(columns.close)
            yield columns.write
            columns.finish(file)
        elif form == "parquet":
            file = stack.enter_context(_temporary_file(output))
            rows = stack.enter_context(contextlib.closing(parquet.Rows(file)))
            yield lambda part: rows.write(part, content.arrays(part))
            rows.finish()
        else:
            yield _lines(form, content, stack.enter_context(open_stream(form, output, stdout)))


@contextlib.contextmanager
def open_stream(
    form: str, output: pathlib.Path | None, stdout: TextIO
) -> Iterator[Callable[[str], Any]]:
    """Yields a function that writes text; arguments and errors are as for `open_writer`."""
    if output is None:
        if isinstance(stdout, io.TextIOWrapper) and form != "text":
            stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
        yield lambda line: console.write(line, stdout)
        return
    with _temporary_file(output) as file:
        text_file = io.TextIOWrapper(file, "utf-8", "backslashreplace", newline="")
        yield text_file.write
        text_file.flush()
        text_file.detach()


def _lines(form: str, content: Content, put: Callable[[str], Any]) -> Write:
    has_header = form != "csv"

    def write(part: Predictions) -> None:
        nonlocal has_header
        lines = "".join(_LINES[form](part, content))
        put(lines if has_header else csv_header(part, content) + lines)
        has_header = True

    return write


@contextlib.contextmanager
def _temporary_file(path: pathlib.Path) -> Iterator[io.BufferedWriter]:
    """Yields a temporary file, which is renamed to `path` on success and removed on an error.

    Devices and pipes, such as /dev/null, are written directly.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        with _open_untruncated(path, path) as file:
            yield file
        return
    _check_free(path)
    part = path.with_name(f"{path.name}.part")
    with _open_untruncated(part, path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise errors.InputError(
                f"--output={path} is being written by another command; name another file"
            ) from error
        # The file system does not support locks.
        except OSError:
            pass
        try:
            # A killed command may have left content.
            file.truncate(0)
            yield file
            file.flush()
            _check_free(path)
            part.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise


@contextlib.contextmanager
def _temporary_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary folder, which is renamed to `path` on success and removed on an error."""
    _check_free(path)
    part = path.with_name(f"{path.name}.part")
    try:
        part.mkdir()
    except FileExistsError as error:
        raise errors.InputError(
            f"{part} exists: another command writes it, or was killed; remove it, or name another"
            " folder with --output"
        ) from error
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield part
        _check_free(path)
        part.rename(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _check_free(path: pathlib.Path) -> None:
    if os.path.lexists(path):
        raise errors.InputError(f"--output={path} already exists; remove it or name another file")


def _open_untruncated(path: pathlib.Path, output: pathlib.Path) -> io.BufferedWriter:
    """Opens a file without truncating it, because another command may be writing it."""

    def open_untruncated(name: str, options: int) -> int:
        return os.open(name, options & ~os.O_TRUNC, 0o666)

    try:
        return open(path, "wb", opener=open_untruncated)
    except OSError as error:
        raise _unwritable(output, error) from error


def _unwritable(output: pathlib.Path, error: OSError) -> errors.InputError:
    return errors.InputError(
        f"--output={output} cannot be written ({error.strerror or error}); name another path"
    )
