"""Colors and similarity maps of patches.

Colors are the first three principal components of a network's patches. Other networks are shown in
the basis of the first: their own leading components are mapped to its colors by least squares.
"""

from collections.abc import Sequence

import numpy as np

from rrd_jax import errors
from rrd_jax.evaluation import rows

# Components are clipped at these quantiles, because few patches of large norm would otherwise use
# most of the colors.
_QUANTILES = (0.02, 0.98)
# Components of other networks that are mapped. More of them could fit any colors of a few images.
_MAPPED = 10


def colours(maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns a color for each patch of each network, [N, h, w, 3] in [0, 1].

    Patches are first scaled to length 1. The sign of a component is that for which its largest
    weight is positive.

    Args:
      maps: patches [N, h, w, D] of the same images; the first network, such as the teacher, defines
        the basis, and the others may have other grids and widths.

    Raises:
      InputError: patches are not finite, or all patches of a network are equal.
    """
    scores = [_components(maps[0], 3)]
    scores += [_mapped(_components(patches, _MAPPED), scores[0]) for patches in maps[1:]]
    low, high = np.quantile(scores[0], _QUANTILES, axis=(0, 1, 2))
    span = np.where(high > low, high - low, 1)
    parts = [np.clip((part - low) / span, 0, 1) for part in scores]
    # Networks of fewer than three dimensions have fewer components.
    padding = ((0, 0),) * 3 + ((0, 3 - parts[0].shape[-1]),)
    return [np.pad(part, padding, constant_values=0.5) for part in parts]


def similarities(patches: np.ndarray, image: int, point: tuple[float, float]) -> np.ndarray:
    """Returns the cosine of each patch with the patch at a point of an image, [N, h, w].

    Args:
      patches: [N, h, w, D].
      image: index of the image of the point.
      point: x and y in [0, 1], from the left and the top edge.
    """
    units = _units(patches)
    _, height, width, _ = units.shape
    row, column = min(int(point[1] * height), height - 1), min(int(point[0] * width), width - 1)
    return units @ units[image, row, column]


def _units(patches: np.ndarray) -> np.ndarray:
    if not np.isfinite(patches).all():
        raise errors.InputError("patches are not finite; check the weights of the network")
    flat = patches.reshape(-1, patches.shape[-1]).astype(np.float64)
    return rows.unit(flat).reshape(patches.shape)


def _components(patches: np.ndarray, count: int) -> np.ndarray:
    """Returns the first principal components of unit patches, [N, h, w, min(count, D)]."""
    units = _units(patches)
    flat = units.reshape(-1, units.shape[-1])
    values, vectors = np.linalg.eigh(rows.gram(flat, flat, centered=True))
    if values[-1] <= 1e-12 * len(flat):
        raise errors.InputError(
            "all patches of a network are equal, so they have no colors; show other images, or"
            " another network"
        )
    basis = vectors[:, ::-1][:, :count]
    basis = basis * np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(basis.shape[1])])
    return (units - flat.mean(axis=0)) @ basis


def _mapped(components: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Maps components [N, h, w, k] to those of another network [N, H, W, 3] by least squares."""
    # A patch is compared with the patch of the other network at its center.
    row, column = (
        ((2 * np.arange(size) + 1) * other) // (2 * size)
        for size, other in zip(components.shape[1:3], targets.shape[1:3], strict=True)
    )
    targets = targets[:, row][:, :, column].reshape(-1, targets.shape[-1])
    flat = components.reshape(-1, components.shape[-1])
    weights = np.linalg.lstsq(flat, targets - targets.mean(axis=0), rcond=1e-6)[0]
    return components @ weights + targets.mean(axis=0)


def montage(images: np.ndarray, colors: Sequence[np.ndarray], side: int = 96) -> np.ndarray:
    """Returns a picture with a column for each image, uint8 [rows x side, N x side, 3].

    Args:
      images: [N, H, W, 1 or 3] uint8, the first row.
      colors: further rows, [N, h, w, 3] in [0, 1] each.
      side: height and width of an image in the picture.
    """
    parts = [np.broadcast_to(images, (*images.shape[:3], 3))]
    parts += [np.rint(255 * part).astype(np.uint8) for part in colors]
    lines = []
    for part in parts:
        row, column = (np.arange(side) * size // side for size in part.shape[1:3])
        lines.append(np.concatenate(list(part[:, row][:, :, column]), axis=1))
    return np.concatenate(lines)
