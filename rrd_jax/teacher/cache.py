"""The teacher cache: outputs for all views of the training images, in memory and on disk.

If images have a limited number of views, as with crop and flip, the cached embeddings of all views,
with their patches if an objective compares them, can replace the teacher, in this run and in later
runs. Logits are computed from embeddings. Each view has its own rows, since the patches of a
flipped image are not the flipped patches of the image.
"""

import functools
import hashlib
import math
import pathlib
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rrd_jax import checkpoints, errors, parallel
from rrd_jax.data import Dataset
from rrd_jax.data.augment.pipeline import Augment
from rrd_jax.run_folder import workdir
from rrd_jax.teacher import cache_accuracy, row_format
from rrd_jax.teacher.cache_file import CacheFile, CacheInMemory, fallback
from rrd_jax.teacher.fill_cache import fill
from rrd_jax.teacher.placement import FrozenWeights
from rrd_jax.terminal import console

# On devices, the number of images is padded to a multiple of this number.
_ROWS = 8
# Number of views on which rounding errors are measured.
_MEASURED = 64
# Number of images that identify a streamed split.
_SAMPLED = 16


class Space(NamedTuple):
    """The memory or disk space of the embeddings in one place.

    Attributes:
      size: bytes of all embeddings; for "device", bytes on each device.
      needed: bytes that are not allocated yet.
      free: free bytes, approximately.
      location: the place, for messages.
    """

    size: float
    needed: float
    free: float
    location: str


class _Member(NamedTuple):
    """A member of an ensemble, with its weights, the layout of its rows and their file."""

    weights: FrozenWeights
    layout: row_format.RowFormat
    file: CacheFile


class EmbeddingCache:
    """Cached embeddings of a teacher or an ensemble, which are computed or read once.

    Args:
      weights: the teacher, or each member of an ensemble, with its weights.
      folders: the folder with the embeddings of each member.
      dataset: data set whose training images are embedded.
      mesh: the devices.
      dtype: type of the rows, see `row_format.of_network`.
      has_patches: whether rows contain the teacher's patches.
      fast_cpu: see `fill_cache.fill`.
    """

    def __init__(
        self,
        weights: Sequence[FrozenWeights],
        folders: Sequence[pathlib.Path],
        dataset: Dataset,
        mesh: jax.sharding.Mesh,
        *,
        dtype: str = "auto",
        has_patches: bool = False,
        fast_cpu: bool = True,
    ):
        self._weights, self._folders, self._dataset, self._mesh = weights, folders, dataset, mesh
        self._dtype, self._fast_cpu = dtype, fast_cpu
        self.has_patches = has_patches
        # Embeddings by folder and place.
        self._loaded: dict[tuple[pathlib.Path, str], Any] = {}
        # Tables of the last `load` that `rows` reads.
        self._on_host: tuple[np.ndarray, ...] = ()

    def space(self, augment: Augment) -> dict[str, Space]:
        """Returns the space of the embeddings by place: "device", "host" and "file"."""
        files = [member.file for member in self._members(augment)]
        size = sum(file.bytes for file in files)
        on_device = {file.folder: self._device_bytes(file) for file in files}
        missing = [folder for folder in on_device if (folder, "device") not in self._loaded]
        on_disk = sum(file.bytes for file in files if not file.is_complete())
        return {
            "device": Space(
                sum(on_device.values()),
                sum(on_device[folder] for folder in missing),
                parallel.free_device_bytes(self._mesh),
                "on each device",
            ),
            "host": Space(size, size, parallel.host_bytes(), "in host memory"),
            "file": Space(size, on_disk, min(_free_disk(f.folder) for f in files), "on the disk"),
        }

    def exists(self, augment: Augment) -> bool:
        """Returns True if the embeddings are in memory or on disk."""
        loaded = {folder for folder, _ in self._loaded}
        files = [member.file for member in self._members(augment)]
        return all(file.folder in loaded or file.is_complete() for file in files)

    def load(
        self, augment: Augment, place: str = "device", stop: Callable[[], bool] = lambda: False
    ) -> dict[str, tuple[Any, ...]]:
        """Returns the embeddings for `step_outputs.cached`; computes missing embeddings.

        Args:
          augment: the views.
          place: see `Plan`; for "host" and "file", batches contain `rows` of the embeddings.
          stop: polled while embeddings are computed; True stops.

        Raises:
          DiskError: the disk cannot store the embeddings, and the place is "file" or the run has
            several processes. Complete rows are kept.
          PreemptedError: `stop` returned True.
        """
        members = self._members(augment)
        if self._dtype not in ("auto", "float32"):
            for weights, layout, _ in members:
                self._describe_accuracy(weights, layout, augment, stop)
        tables = tuple(self._load_member(i, augment, place, stop) for i in range(len(members)))
        self._on_host = () if place == "device" else tables
        heads = tuple(weights.head() for weights in self._weights)
        return {"embedding": tables if place == "device" else (), "head": heads}

    def rows(self, index: np.ndarray, view: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns the embeddings [B, D] of views [B] of images [B] from the host, per member."""
        return tuple(np.asarray(table[index, view]) for table in self._on_host)

    def _members(self, augment: Augment) -> list[_Member]:
        """Returns the members with the files of their embeddings, which may be missing."""
        return [
            self._member(weights, folder, augment, self._dtype)
            for weights, folder in zip(self._weights, self._folders, strict=True)
        ]

    def _member(
        self, weights: FrozenWeights, folder: pathlib.Path, augment: Augment, dtype: str
    ) -> _Member:
        """Returns a member with its file, named by a digest of everything that affects its rows."""
        network, digests = weights.network, (self._images_digest, weights.digest)
        layout = row_format.of_network(
            network, self._dataset.image_shape, dtype, has_patches=self.has_patches
        )
        shape = len(self._dataset.train), augment.views, layout.width
        parts = (repr(network), digests, augment.name, shape, layout.dtype.name)
        key = repr((*parts, "patches") if self.has_patches else parts)
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        return _Member(weights, layout, CacheFile(folder.absolute() / name, shape, layout.dtype))

    def bytes_by_dtype(self, augment: Augment) -> dict[str, int]:
        """Returns the bytes of all rows in each type of `teacher.cache_dtype` but auto."""
        dtypes = [dtype for dtype in row_format.DTYPES if self.has_patches or dtype != "int8"]
        pairs = list(zip(self._weights, self._folders, strict=True))
        return {
            dtype: sum(self._member(*pair, augment, dtype).file.bytes for pair in pairs)
            for dtype in dtypes
        }

    @functools.cached_property
    def _images_digest(self) -> str:
        """The digest of the images."""
        split = self._dataset.train
        if split.on_device:
            return checkpoints.digest(split.images)
        # Reading all images of a streamed split would take too long.
        places = np.linspace(0, len(split) - 1, _SAMPLED).astype(int)
        (sample,) = split.images_at(places, _SAMPLED)
        return repr((self._dataset.pixels_version, checkpoints.host_digest(sample)))

    def _describe_accuracy(
        self,
        weights: FrozenWeights,
        layout: row_format.RowFormat,
        augment: Augment,
        stop: Callable[[], bool],
    ) -> None:
        """Logs the errors of a member's rows, measured on some views of some images."""
        count = max(1, _MEASURED // augment.views)
        places = np.unique(np.linspace(0, len(self._dataset.train) - 1, count).astype(int))
        rows = []
        self._fill(
            weights,
            augment,
            places,
            cache_accuracy.exact(layout).encode,
            lambda index, part: rows.append(part.reshape(-1, part.shape[-1])),
            stop,
        )
        measured = cache_accuracy.measure(layout, np.concatenate(rows), weights.head())
        listed = ", ".join(f"{name} {accuracy}" for name, accuracy in measured.items())
        console.say(
            f"teacher cache: relative errors in {layout.dtype.name}, over {len(places)} images with"
            f" all views: {listed}"
        )

    def _fill(
        self,
        weights: FrozenWeights,
        augment: Augment,
        index: np.ndarray,
        encode: Callable,
        store: Callable[[np.ndarray, np.ndarray], None],
        stop: Callable[[], bool],
    ) -> None:
        """Computes the rows of images; see `fill_cache.fill`."""
        fill(
            weights.network,
            weights.folded,
            self._dataset.train,
            augment,
            self._mesh,
            index,
            encode,
            store,
            stop,
            fast_cpu=self._fast_cpu,
            fully=weights.fully,
        )

    def _load_member(self, i: int, augment: Augment, place: str, stop: Callable[[], bool]) -> Any:
        """Returns the embeddings of member i in a place."""
        file = self._members(augment)[i].file
        key = file.folder, place
        if key not in self._loaded:
            with workdir.exclusive(file.folder.with_suffix(".lock"), stop):
                start, missing = time.monotonic(), _missing(file)
                if len(missing):
                    rows = self._compute(i, augment, missing, place, stop)
                else:
                    rows, seconds = file.read(), time.monotonic() - start
                    console.say(
                        f"teacher cache: embeddings read from {file.folder} in {seconds:.0f} s"
                    )
            self._loaded[key] = self._put(rows, place)
        return self._loaded[key]

    def _compute(
        self,
        i: int,
        augment: Augment,
        missing: np.ndarray,
        place: str,
        stop: Callable[[], bool],
    ) -> np.ndarray:
        """Computes the missing rows of member i, stores them on disk if possible, returns all."""
        start, (weights, layout, file) = time.monotonic(), self._members(augment)[i]

        def compute(images: np.ndarray, target: CacheFile | CacheInMemory) -> np.ndarray:
            self._fill(weights, augment, images, layout.encode, target.write, stop)
            seconds = time.monotonic() - start
            rate = len(images) * augment.views / seconds
            console.say(
                f"teacher cache: all views computed in {seconds:.0f} s, {rate:,.0f} images/s"
            )
            # A barrier: the rows of all processes have to be complete.
            parallel.main_first(lambda: None)
            return target.read()

        description = {"views": augment.name}
        try:
            parallel.main_first(lambda: file.create(description) if parallel.is_main() else None)
            return compute(missing, file)
        except OSError as error:
            return compute(np.arange(file.shape[0]), self._in_memory(file, error, place))

    def _in_memory(self, file: CacheFile, error: OSError, place: str) -> CacheInMemory:
        """Returns storage in memory that replaces a file which cannot be written."""
        if place == "file":
            raise errors.DiskError(
                f"teacher cache: {file.folder} cannot be written ({error}); free disk space and run"
                " the same command again, which continues the cache, or set teacher.cache to off"
            ) from error
        memory = fallback(file, error)
        console.warn(
            f"teacher cache: {file.folder} cannot be written ({error}); the next run computes the"
            " embeddings again"
        )
        return memory

    def _device_bytes(self, file: CacheFile) -> float:
        """Returns the bytes of a file's embeddings on each device."""
        images, step = file.shape[0], math.lcm(_ROWS, self._mesh.size)
        return file.bytes / images * -(-images // step) * step / self._mesh.size

    def _put(self, rows: np.ndarray, place: str) -> Any:
        """Puts rows [N, views, width] on the devices, in host memory, or leaves them on disk."""
        if place == "file":
            return rows
        if place == "host":
            return np.array(rows)
        count, views, width = rows.shape
        step = math.lcm(_ROWS, self._mesh.size)
        shape = (-(-count // step) * step * views, width)

        def part(index):
            first, stop, _ = index[0].indices(shape[0])
            stored = rows[first // views : stop // views].reshape(-1, width)
            return np.pad(stored, ((0, stop - first - len(stored)), (0, 0)))

        return jax.make_array_from_callback(shape, parallel.split(self._mesh), part)


def _missing(file: CacheFile) -> np.ndarray:
    """Returns the images [n] without intact embeddings, and logs their number."""
    missing, damaged = file.missing()
    if damaged:
        console.warn(
            f"teacher cache: embeddings of {damaged:,} images in {file.folder} are damaged;"
            " recomputing them"
        )
    if 0 < len(missing) < file.shape[0]:
        cached = file.shape[0] - len(missing)
        console.say(f"teacher cache: {cached:,} of {file.shape[0]:,} images already cached")
    return missing


def _free_disk(folder: pathlib.Path) -> int:
    """Returns the free bytes on the disk of a folder, which need not exist yet."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free
