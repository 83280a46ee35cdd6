"""Caches decoded training images in the host's memory, as far as they fit."""

import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rrd_jax.data.images import decoding
from rrd_jax.terminal import console

_SAMPLE = 64  # images whose headers say how large a split is, decoded
_STEP = 2**28  # bytes after which free memory is looked at again
# What a container may use, and what it uses: cgroup v2, then v1.
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


class CacheOptions(NamedTuple):
    """Which images of a split are cached.

    Attributes:
      mode: a name in source.KEEPS: "auto" for all of a split that fits, "on" for as many as fit,
        "off" for none.
      share: largest share of the memory that is free at the start, in (0, 1].
    """

    mode: str = "off"
    share: float = 0.5


NO_CACHE = CacheOptions()


class ImageCache:
    """Decoded images and labels of a split, by index.

    Args:
      limit: largest size in bytes.
      reserve: bytes of the host's memory that stay free.
    """

    def __init__(self, limit: float, reserve: float):
        self._limit, self._reserve = limit, reserve
        self._images: dict[int, tuple[np.ndarray, np.int32]] = {}
        self._bytes = self._looked = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._images)

    def __reduce__(self) -> tuple:
        # Another process starts with an empty cache.
        return ImageCache, (self._limit, self._reserve)

    def get(
        self, index: int, read: Callable[[int], tuple[np.ndarray, np.int32]]
    ) -> tuple[np.ndarray, np.int32]:
        """Returns the image and label of an index, which are read unless they are cached."""
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
            if self._bytes - self._looked > _STEP:  # Other programs may have taken memory.
                self._looked = self._bytes
                if free_bytes() < self._reserve:
                    self._limit = self._bytes
            image = np.ascontiguousarray(image)
            image.flags.writeable = False
            self._images[index] = image, label


def make_cache(
    options: CacheOptions, examples: Sequence[Any], size: int | None, channels: int
) -> ImageCache | None:
    """Returns an empty cache for a split, and reports it; None if its images are not cached.

    Args:
      options: which images are cached.
      examples: the split.
      size: height and width of its images; None for those that are stored.
      channels: channels of its images.
    """
    if options.mode == "off":
        return None
    free = free_bytes()
    needed, limit = _decoded_bytes(examples, size, channels), options.share * free
    about = f"{len(examples):,} training images, about {needed / 1e9:.2g} GB decoded"
    of = f"data.keep_share, {options.share:.0%}, of the {free / 1e9:.3g} GB that are free"
    if needed > limit and options.mode == "auto":
        console.say(
            f"not kept in memory: {about}, which are more than {of}; each is decoded when it is"
            " used (smaller ones: `python -m rrd_jax.data.prepare --resize=256`)"
        )
        return None
    some = "" if needed <= limit else f", as many as fit into {of}"
    console.say(f"kept in memory: {about}, each from its first use on{some}")
    return ImageCache(limit, free - limit)


def free_bytes() -> int:
    """Returns the memory that a process can take without swapping; 0 if it is not known."""
    free = 0
    try:
        for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = 1024 * int(line.split()[1])
    except (OSError, ValueError):  # no Linux
        return 0
    for limit, used in _CGROUPS:
        try:
            limit, used = (int(pathlib.Path(path).read_text()) for path in (limit, used))
            free = min(free, max(0, limit - used))
        except (OSError, ValueError):  # there is none, or it is "max"
            continue
    return free


def _decoded_bytes(examples: Sequence[Any], size: int | None, channels: int) -> float:
    """Estimates the size of the decoded images of a split by the headers of some of them."""
    if size:
        return float(len(examples) * size**2 * channels)
    places = np.unique(np.linspace(0, len(examples) - 1, _SAMPLE).astype(int))
    pixels = [_pixels(examples[int(place)]["image"]) for place in places]
    return float(np.mean(pixels) * len(examples) * channels)


def _pixels(image: Any) -> int:
    height, width = decoding.size(image) if isinstance(image, bytes) else image.shape[:2]
    return height * width
