"""The figure of --picture with --features=patches: colors and similarities of patches."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rrd_jax import errors
from rrd_jax.data.images import reader
from rrd_jax.data.model_info import Preprocessing
from rrd_jax.evaluation import patch_colours
from rrd_jax.library import Loaded, run_teachers
from rrd_jax.predict.neighbour_figure import short_names
from rrd_jax.terminal import console, drawing, interrupts

MAX_IMAGES = 12


def load_teachers(workdir: str, *, is_required: bool = False) -> dict[str, Loaded]:
    """Loads the teachers of a run by label; returns {} for a network without a teacher.

    Args:
      workdir: path of a network, as for `library.load`.
      is_required: whether a missing teacher is an error instead of a note.

    Raises:
      InputError: there is no teacher, or its weights are missing, and a teacher is required.
    """
    try:
        teachers = run_teachers.teachers_of(workdir)
        if is_required and not teachers:
            raise errors.InputError(f"{workdir} has no teacher; omit --teacher")
        labels = [f"teacher {i}" for i in range(1, len(teachers) + 1)]
        labels = labels if len(labels) > 1 else ["teacher"]
        return {
            label: run_teachers.load_single(workdir, teacher)
            for label, teacher in zip(labels, teachers, strict=False)
        }
    except errors.InputError as error:
        if is_required:
            raise
        console.note(f"the picture does not show the teacher: {error}")
        return {}


def read_images(
    files: Sequence[str], preprocessing: Preprocessing
) -> tuple[list[str], np.ndarray, dict[str, str]]:
    """Reads the first images that can be read.

    Args:
      files: image files.
      preprocessing: the preprocessing of the networks.

    Returns:
      (files of at most 12 images, the images [N, H, W, channels] uint8, {file: reason} of files
      that cannot be read).

    Raises:
      InputError: no image can be read.
    """
    names, images, unread = [], [], {}
    for file in files:
        interrupts.check()
        try:
            images.append(reader.read(file, preprocessing))
            names.append(file)
        except errors.InputError as error:
            unread[file] = str(error)
        if len(names) == MAX_IMAGES:
            break
    if not names:
        file, reason = next(iter(unread.items()))
        raise errors.InputError(f"{errors.printable(file)} cannot be used: {reason}")
    return names, np.stack(images), unread


def patches_of(network: Loaded, images: np.ndarray, role: str) -> np.ndarray:
    """Returns the patches of images, [N, h, w, D] float32.

    Args:
      network: the network.
      images: [N, H, W, channels] uint8.
      role: the network in messages, such as "student".

    Raises:
      InputError: the network has no patches.
    """
    outputs = network(images)
    if outputs.patches is None:
        raise errors.InputError(
            f"the {role} '{network.name}' has no patches, which --features=patches needs; use a"
            " network that returns them"
        )
    return np.asarray(outputs.patches, np.float32)


def draw(
    path: pathlib.Path,
    files: Sequence[str],
    images: np.ndarray,
    maps: Mapping[str, np.ndarray],
    point: tuple[float, float] | None = None,
) -> None:
    """Writes the figure; a failure leaves no partial file.

    Args:
      path: a .png, .svg or .pdf file.
      files: names of the images.
      images: [N, H, W, channels] uint8.
      maps: patches [N, h, w, D] by the label of their network. The last network, such as the
        teacher, defines the basis of the colors.
      point: x and y in [0, 1] of a point in the first image; adds a column per network with the
        cosines to its patch. None for none.

    Raises:
      InputError: patches have no colors, or the file cannot be written.
      DiskError: the disk is full or cannot be written.
    """
    # The basis is that of the last network.
    colors = patch_colours.colours(list(maps.values())[::-1])[::-1]
    columns = list(zip(maps, colors, [{}] * len(maps), strict=True))
    if point:
        for label, patches in maps.items():
            cosines = patch_colours.similarities(patches, 0, point)
            columns.append(
                (f"{label}, cosine", cosines, {"cmap": "viridis", "vmin": -1, "vmax": 1})
            )
    drawing.write(lambda: _figure(files, images, columns, point), path)


def _figure(
    files: Sequence[str],
    images: np.ndarray,
    columns: Sequence[tuple[str, np.ndarray, dict[str, Any]]],
    point: tuple[float, float] | None,
) -> Any:
    from matplotlib.figure import Figure

    names = short_names(files)
    count, height, width, channels = images.shape
    size = (1.5 * (1 + len(columns)), 1.6 * count + 0.2)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    grid = figure.subplots(count, 1 + len(columns), squeeze=False)
    extent = (0, width, height, 0)
    for i, axes in enumerate(grid):
        for axis in axes:
            axis.axis("off")
        pixels = images[i] if channels == 3 else images[i, ..., 0]
        axes[0].imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=extent)
        axes[0].set_title(names[files[i]], fontsize=6)
        for axis, (label, maps, options) in zip(axes[1:], columns, strict=True):
            axis.imshow(maps[i], extent=extent, interpolation="nearest", **options)
            if i == 0:
                axis.set_title(label, fontsize=8)
    if point:
        grid[0, 0].plot(point[0] * width, point[1] * height, "+", color="red", markersize=9)
    return figure
