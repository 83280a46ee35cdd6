"""Arrays in files, which are read when they are used."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """An array in a file. NumPy functions read it; a tree of such arrays holds no values.

    Attributes:
      shape: shape of the array.
      dtype: dtype of the array, or its name.
      read: () -> the array.
    """

    shape: tuple[int, ...]
    dtype: Any
    read: Callable[[], np.ndarray]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads the array."""
        return np.asarray(self.read(), dtype=dtype)
