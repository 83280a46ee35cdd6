"""Detection of examples that change after they were first read."""

import zlib
from typing import Any

import numpy as np


class FirstReads:
    """The label, form and content of each example of a split, as first read by this process.

    Form and content are stored as checksums. Worker processes start with empty memories.

    Args:
      count: number of examples.
    """

    def __init__(self, count: int):
        self._count = count
        self._rows: np.ndarray | None = None

    def __reduce__(self) -> tuple:
        return FirstReads, (self._count,)

    def change(self, i: int, form: str, image: Any, label: int) -> str:
        """Returns a description of how example i differs from its first read; "" for no change.

        Args:
          i: index of the example.
          form: type, shape and dtype of the image in the source.
          image: the image as encoded bytes or as an array.
          label: the label.
        """
        if self._rows is None:
            self._rows = np.zeros((self._count, 4), np.int64)
        shape = repr(getattr(image, "shape", len(image)))
        content = image if isinstance(image, bytes) else np.ascontiguousarray(image)
        row = (1, label, zlib.crc32(f"{form} {shape}".encode()), zlib.crc32(content))
        is_first, (_, old_label, old_form, old_content) = not self._rows[i, 0], self._rows[i]
        if is_first:
            self._rows[i] = row
            return ""
        if label != old_label:
            return f"its label was {old_label} and is now {label}"
        if row[2] != old_form:
            return f"its image has another size or type, now {form}"
        return "" if row[3] == old_content else "its image has changed"
