"""Caches decoded training images in the host's memory, up to a limit."""

import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rrd_jax.data.images import decoding
from rrd_jax.terminal import console

# Number of image headers from which the decoded size of a split is estimated.
_SAMPLE_SIZE = 64
# Cached bytes between two checks of the free memory.
_CHECK_INTERVAL = 2**28
# Files with the memory limit and the memory use of a container: cgroup v2, then v1.
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


class CacheOptions(NamedTuple):
    """Options of the cache for decoded images.

    Attributes:
      mode: a name in source.KEEPS: "auto" for all images if they fit, "on" for as many as fit,
        "off" for none.
      share: largest share of the initially free memory, in (0, 1].
    """

    mode: str = "off"
    share: float = 0.5


NO_CACHE = CacheOptions()


class ImageCache:
    """A cache of decoded images and labels by index.

    Args:
      limit: largest size in bytes.
      reserve: bytes of the host's memory that must stay free.
    """

    def __init__(self, limit: float, reserve: float):
        self._limit, self._reserve = limit, reserve
        self._images: dict[int, tuple[np.ndarray, np.int32]] = {}
        self._bytes = self._last_check = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._images)

    def __reduce__(self) -> tuple:
        # The cache is empty in another process.
        return ImageCache, (self._limit, self._reserve)

    def get_or_read(
        self, index: int, read: Callable[[int], tuple[np.ndarray, np.int32]]
    ) -> tuple[np.ndarray, np.int32]:
        """Returns the image and label of an index, and reads them if they are not cached."""
        entry = self._images.get(index)
        if entry is None:
            entry = read(index)
            self._put(index, entry)
        return entry

    def _put(self, index: int, entry: tuple[np.ndarray, np.int32]) -> None:
        image, label = entry
        with self._lock:
            if self._bytes + image.nbytes > self._limit or index in self._images:
                return
            self._bytes += image.nbytes
            # Other programs may have allocated memory since the last check.
            if self._bytes - self._last_check > _CHECK_INTERVAL:
                self._last_check = self._bytes
                if free_bytes() < self._reserve:
                    self._limit = self._bytes
            image = np.ascontiguousarray(image)
            image.flags.writeable = False
            self._images[index] = image, label


def make_cache(
    options: CacheOptions, examples: Sequence[Any], size: int | None, channels: int
) -> ImageCache | None:
    """Returns an empty cache for a split, and logs the decision; None if caching is off.

    Args:
      options: mode and share of the cache.
      examples: the split.
      size: height and width of cached images; None for the stored size.
      channels: channels of the images.
    """
    if options.mode == "off":
        return None
    free = free_bytes()
    needed, limit = _decoded_bytes(examples, size, channels), options.share * free
    images = f"{len(examples):,} training images ({needed / 1e9:.2g} GB decoded)"
    budget = f"data.keep_share = {options.share:.0%} of {free / 1e9:.3g} GB free memory"
    if needed > limit and options.mode == "auto":
        console.say(
            f"image cache: off, {images} exceed {budget}; to store smaller images, run"
            " `python -m rrd_jax.data.prepare --resize=256`"
        )
        return None
    suffix = "" if needed <= limit else f", as many as fit into {budget}"
    console.say(f"image cache: {images}{suffix}")
    return ImageCache(limit, free - limit)


def free_bytes() -> int:
    """Returns the memory in bytes that is available without swapping; 0 if unknown."""
    free = 0
    try:
        for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = 1024 * int(line.split()[1])
    # Only Linux has this file.
    except (OSError, ValueError):
        return 0
    for limit, used in _CGROUPS:
        try:
            limit, used = (int(pathlib.Path(path).read_text()) for path in (limit, used))
            free = min(free, max(0, limit - used))
        # The file may be missing, or contain "max".
        except (OSError, ValueError):
            continue
    return free


def _decoded_bytes(examples: Sequence[Any], size: int | None, channels: int) -> float:
    """Estimates the size of the decoded images of a split from a sample of image headers."""
    if size:
        return float(len(examples) * size**2 * channels)
    indices = np.unique(np.linspace(0, len(examples) - 1, _SAMPLE_SIZE).astype(int))
    pixels = [_pixel_count(examples[int(i)]["image"]) for i in indices]
    return float(np.mean(pixels) * len(examples) * channels)


def _pixel_count(image: Any) -> int:
    height, width = decoding.size(image) if isinstance(image, bytes) else image.shape[:2]
    return height * width
