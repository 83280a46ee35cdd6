"""A picture of queries and their neighbours, with a row for each query and network."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rrd_jax import errors
from rrd_jax.data.images import reader
from rrd_jax.data.model_info import Preprocessing
from rrd_jax.predict.neighbours import QueryResult
from rrd_jax.terminal import drawing

_MOST_QUERIES = 12


def check(path: pathlib.Path) -> None:
    """Raises an error if the picture cannot be written, before anything is computed."""
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise errors.InputError(f"--picture={path} must end in .png, .svg or .pdf")
    if os.path.lexists(path):
        raise errors.InputError(f"--picture={path} is there already: remove it, or name another")
    if not path.parent.is_dir():
        raise errors.InputError(f"--picture={path} cannot be written: there is no {path.parent}")
    drawing.check("--picture")


def draw(
    path: pathlib.Path,
    results: Mapping[str, Sequence[QueryResult]],
    preprocessing: Preprocessing,
) -> None:
    """Writes the picture, whole or not at all.

    Args:
      path: of a .png, .svg or .pdf file.
      results: of the same queries, by the label of a network. The first twelve are drawn.
      preprocessing: how the images of the picture are read.

    Raises:
      DiskError: the disk takes nothing more.
    """
    drawing.write(lambda: _figure(results, preprocessing), path)


def _figure(results: Mapping[str, Sequence[QueryResult]], preprocessing: Preprocessing) -> Any:
    from matplotlib.figure import Figure

    rows = [
        (label, result)
        for same_query in zip(*(r[:_MOST_QUERIES] for r in results.values()), strict=True)
        for label, result in zip(results, same_query, strict=True)
    ]
    columns = 1 + max(len(result.neighbours) for _, result in rows)
    figure = Figure(figsize=(1.15 * columns + 0.8, 1.3 * len(rows)), dpi=100, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (label, result) in zip(grid, rows, strict=True):
        for axis in axes:
            axis.axis("off")
        _show(axes[0], result.query, f"{label}:", preprocessing)
        for axis, neighbour in zip(axes[1:], result.neighbours, strict=False):
            _show(axis, neighbour.file, f"{neighbour.cosine:.3f}", preprocessing)
    return figure


def _show(axis: Any, file: str, title: str, preprocessing: Preprocessing) -> None:
    axis.set_title(title, fontsize=8)
    image = reader.read(file, preprocessing)
    axis.imshow(
        image if preprocessing.channels == 3 else image[..., 0], cmap="gray", vmin=0, vmax=255
    )
