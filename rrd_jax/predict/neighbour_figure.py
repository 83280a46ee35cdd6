"""The figure of --picture: queries and their neighbors, in one row per query and network."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rrd_jax import errors
from rrd_jax.data.images import reader
from rrd_jax.data.model_info import Preprocessing
from rrd_jax.predict.neighbours import QueryResult
from rrd_jax.terminal import drawing

_MAX_QUERIES = 12
# Maximum number of characters below an image.
_MAX_NAME = 20


def check(path: pathlib.Path) -> None:
    """Raises an error if the figure cannot be written, before anything is computed.

    Raises:
      InputError: the file type is unsupported, the file exists, or its folder does not.
      UnavailableError: matplotlib is not installed.
    """
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise errors.InputError(
            f"--picture={path} is not supported; it must end in .png, .svg or .pdf"
        )
    if os.path.lexists(path):
        raise errors.InputError(f"--picture={path} already exists; remove it or name another file")
    if not path.parent.is_dir():
        raise errors.InputError(
            f"--picture={path} cannot be written, because folder {path.parent} does not exist;"
            " create it or name another"
        )
    drawing.check("--picture")


def draw(
    path: pathlib.Path,
    results: Mapping[str, Sequence[QueryResult]],
    preprocessing: Preprocessing,
) -> None:
    """Writes the figure; a failure leaves no partial file.

    Args:
      path: a .png, .svg or .pdf file.
      results: results by network label, for the same queries. The first twelve queries are drawn.
      preprocessing: the preprocessing with which the images are read.

    Raises:
      InputError: the file cannot be written.
      DiskError: the disk is full or cannot be written.
    """
    drawing.write(lambda: _figure(results, preprocessing), path)


def _figure(results: Mapping[str, Sequence[QueryResult]], preprocessing: Preprocessing) -> Any:
    from matplotlib.figure import Figure

    rows = [
        (label, result)
        for same_query in zip(*(r[:_MAX_QUERIES] for r in results.values()), strict=True)
        for label, result in zip(results, same_query, strict=True)
    ]
    columns = 1 + max(len(result.neighbours) for _, result in rows)
    drawn = {file for _, result in rows for file in (result.query, *_files(result))}
    names = short_names(sorted(drawn))
    figure = Figure(figsize=(1.15 * columns + 0.8, 1.45 * len(rows)), dpi=100, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (label, result) in zip(grid, rows, strict=True):
        for axis in axes:
            axis.axis("off")
        titles = [f"{label}:", *(f"{neighbour.cosine:.3f}" for neighbour in result.neighbours)]
        files = (result.query, *_files(result))
        for axis, file, title in zip(axes, files, titles, strict=False):
            _draw_image(axis, file, names[file], title, preprocessing)
    return figure


def _files(result: QueryResult) -> list[str]:
    return [neighbour.file for neighbour in result.neighbours]


def short_names(files: Sequence[str]) -> dict[str, str]:
    """Returns a name for each file: as many parts of the path as distinguish all, cut if long."""
    parts = [os.path.normpath(file).split(os.sep) for file in files]
    longest = max(map(len, parts), default=1)
    counts = range(1, longest + 1)
    ends = ([os.sep.join(path[-count:]) for path in parts] for count in counts)
    names = next((e for e in ends if len(set(e)) == len(files)), list(files))
    return dict(zip(files, map(_cut, map(errors.printable, names)), strict=True))


def _cut(name: str) -> str:
    half = _MAX_NAME // 2 - 1
    return name if len(name) <= _MAX_NAME else f"{name[:half]}...{name[-half:]}"


def _draw_image(axis: Any, file: str, name: str, title: str, preprocessing: Preprocessing) -> None:
    axis.set_title(title, fontsize=8)
    axis.text(0.5, -0.03, name, transform=axis.transAxes, ha="center", va="top", fontsize=6)
    image = reader.read(file, preprocessing)
    axis.imshow(
        image if preprocessing.channels == 3 else image[..., 0], cmap="gray", vmin=0, vmax=255
    )
