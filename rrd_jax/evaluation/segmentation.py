"""Confusion matrices and the mean intersection over union of class maps."""

import numpy as np

from rrd_jax.data.mask_index import IGNORED


def patch_counts(mask: np.ndarray, grid: tuple[int, int], num_classes: int) -> np.ndarray:
    """Returns the number of pixels of each class in each patch, int32 [h * w, C].

    A pixel belongs to the patch that contains its center. Pixels of class 255 are not counted.

    Args:
      mask: [H, W] uint8, class indices.
      grid: h and w, the numbers of rows and columns of patches.
      num_classes: C.
    """
    row, column = (
        ((2 * np.arange(size) + 1) * count) // (2 * size)
        for size, count in zip(mask.shape, grid, strict=True)
    )
    patch = row[:, None] * grid[1] + column[None]
    valid = mask != IGNORED
    index = patch[valid] * num_classes + mask[valid]
    counts = np.bincount(index, minlength=grid[0] * grid[1] * num_classes)
    return counts.reshape(-1, num_classes).astype(np.int32)


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the number of pixels of each true class (row) and predicted class, int64 [C, C].

    Args:
      truth: class indices of any shape; pixels of class 255 are not counted.
      predicted: class indices below C, of the same shape.
      num_classes: C.
    """
    valid = truth != IGNORED
    index = truth[valid].astype(np.int64) * num_classes + predicted[valid]
    return np.bincount(index, minlength=num_classes**2).reshape(num_classes, num_classes)


def mean_iou(matrix: np.ndarray) -> tuple[float, int]:
    """Computes the mean over classes of intersection over union, in percent.

        IoU_c = M_cc / (sum_j M_cj + sum_i M_ic - M_cc)

    Classes without true and predicted pixels are left out.

    Args:
      matrix: result of `confusion_matrix`, over all images.

    Returns:
      (mean, NaN if no class has pixels; number of classes that are left out).
    """
    common = np.diag(matrix)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - common
    present = union > 0
    if not present.any():
        return float("nan"), len(matrix)
    return 100.0 * float(np.mean(common[present] / union[present])), int((~present).sum())
