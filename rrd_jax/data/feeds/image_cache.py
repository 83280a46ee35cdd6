"""Training images that stay in the host's memory once they are decoded, as far as they fit."""

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


class Keep(NamedTuple):
    """What of a split stays in memory.

    Attributes:
      mode: a name in source.KEEPS.
      share: of the memory that is free at the start, the most that it may take.
    """

    mode: str = "off"
    share: float = 0.5


NOTHING = Keep()


class Kept:
    """Images and labels of a split, by number.

    Args:
      limit: bytes that they may take.
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
        return Kept, (self._limit, self._reserve)  # another process has a memory of its own

    def get(
        self, index: int, read: Callable[[int], tuple[np.ndarray, np.int32]]
    ) -> tuple[np.ndarray, np.int32]:
        """The image and label of an index, read where they are not kept."""
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
            if self._bytes - self._looked > _STEP:  # others may want memory too
                self._looked = self._bytes
                if free_bytes() < self._reserve:
                    self._limit = self._bytes
            image = np.ascontiguousarray(image)
            image.flags.writeable = False
            self._images[index] = image, label


def kept(keep: Keep, examples: Sequence[Any], shape: tuple[int | None, int]) -> Kept | None:
    """What keeps the images of a split, and a line that says so; None where they are not kept.

    Args:
      keep: what is wanted.
      examples: the split.
      shape: its images' height and width, None for as they are stored, and channels.
    """
    if keep.mode == "off":
        return None
    free = free_bytes()
    needed, limit = _decoded_bytes(examples, *shape), keep.share * free
    about = f"{len(examples):,} training images, about {needed / 1e9:.2g} GB decoded"
    of = f"data.keep_share, {keep.share:.0%}, of the {free / 1e9:.3g} GB that are free"
    if needed > limit and keep.mode == "auto":
        console.say(
            f"not kept in memory: {about}, which are more than {of}; each is decoded when it is"
            " used (smaller ones: `python -m rrd_jax.data.prepare --resize=256`)"
        )
        return None
    some = "" if needed <= limit else f", as many as fit into {of}"
    console.say(f"kept in memory: {about}, each from its first use on{some}")
    return Kept(limit, free - limit)


def free_bytes() -> int:
    """The memory of this host that a process may still take, without swapping; 0 if not known."""
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
    """How much the images of a split are, decoded, by the headers of some of them."""
    if size:
        return float(len(examples) * size**2 * channels)
    places = np.unique(np.linspace(0, len(examples) - 1, _SAMPLE).astype(int))
    pixels = [_pixels(examples[int(place)]["image"]) for place in places]
    return float(np.mean(pixels) * len(examples) * channels)


def _pixels(image: Any) -> int:
    height, width = decoding.size(image) if isinstance(image, bytes) else image.shape[:2]
    return height * width
