"""A picture of queries and their neighbours: a row a query and network."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rrd_jax import errors
from rrd_jax.data.images import reader
from rrd_jax.data.model_info import Preprocessing
from rrd_jax.predict.neighbours import Found
from rrd_jax.terminal import drawing

_MOST = 12  # queries that are drawn


def check(path: pathlib.Path) -> None:
    """Raises an error where there can be no picture: before anything is computed."""
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise errors.InputError(f"--picture={path} must end in .png, .svg or .pdf")
    if os.path.lexists(path):
        raise errors.InputError(f"--picture={path} is there already: remove it, or name another")
    if not path.parent.is_dir():
        raise errors.InputError(f"--picture={path} cannot be written: there is no {path.parent}")
    drawing.check("--picture")


def draw(path: pathlib.Path, found: Mapping[str, Sequence[Found]], wanted: Preprocessing) -> None:
    """Writes the picture, whole or not at all.

    Args:
      path: of a .png, .svg or .pdf file.
      found: by the network's label, the same queries with what it finds; the first twelve queries
        are drawn.
      wanted: how images are read that are shown.

    Raises:
      DiskError: the disk does not take it.
    """
    drawing.write(lambda: _drawn(found, wanted), path)


def _drawn(found: Mapping[str, Sequence[Found]], wanted: Preprocessing) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [
        (label, one)
        for queries in zip(*(ones[:_MOST] for ones in found.values()), strict=True)
        for label, one in zip(found, queries, strict=True)
    ]
    columns = 1 + max(len(one.neighbours) for _, one in rows)
    figure = Figure(figsize=(1.15 * columns + 0.8, 1.3 * len(rows)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (label, one) in zip(grid, rows, strict=True):
        for axis in axes:
            axis.axis("off")
        _show(axes[0], one.query, f"{label}:", wanted)
        for axis, neighbour in zip(axes[1:], one.neighbours, strict=False):
            _show(axis, neighbour.file, f"{neighbour.cosine:.3f}", wanted)
    return figure


def _show(axis: Any, file: str, title: str, wanted: Preprocessing) -> None:
    axis.set_title(title, fontsize=8)
    image = reader.read(file, wanted)
    axis.imshow(image if wanted.channels == 3 else image[..., 0], cmap="gray", vmin=0, vmax=255)
