"""The teacher's embeddings of all views of the training images, in memory and on disk.

Where an image has a limited number of views, of which crop and flip are an example, a teacher
whose embeddings of all of them are cached need not run again, in this run or any other. Its logits
follow from its embeddings.
"""

import functools
import hashlib
import math
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import checkpoints, errors, networks, parallel
from rrd_jax.data import Dataset
from rrd_jax.data.augment.pipeline import Augment
from rrd_jax.objectives import Objective
from rrd_jax.run_folder import workdir
from rrd_jax.teacher import ensemble, outputs
from rrd_jax.teacher.filling import fill
from rrd_jax.teacher.rows import Rows, RowsInMemory, fallback
from rrd_jax.terminal import console
from rrd_jax.training.recipe import Recipe, Training

_ROWS = 8  # on devices, images fill a multiple of this
_LOOKED_AT = 16  # images of a streamed split, to tell it from another part of the same data
_HOST_SHARE = 0.25  # of a host's memory, for embeddings
_DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(jnp.bfloat16)}


class Plan(NamedTuple):
    """Whether a run uses the cache.

    Attributes:
      place: where the embeddings are then, "device", "host" or "file"; "" where the teacher runs.
      reason: a line for the log.
    """

    place: str
    reason: str


class _Table(NamedTuple):
    """The embeddings of one member of the network.

    Attributes:
      network: the member.
      variables: its weights.
      rows: of all images, on disk.
    """

    network: networks.Network
    variables: Any
    rows: Rows

    def device_bytes(self, devices: int) -> float:
        """Memory of each device that they take."""
        step = math.lcm(_ROWS, devices)
        images = self.rows.shape[0]
        return self.rows.bytes / images * -(-images // step) * step / devices


class EmbeddingCache:
    """The embeddings of one teacher, or several; filled or read once, then kept.

    Args:
      network: of `networks.create`, or an Ensemble.
      variables: its weights, on the devices.
      folded: () -> what `fold.fold` makes of them.
      folders: where the embeddings of each member are kept.
      dataset: whose training images.
      mesh: the devices.
      dtype: of the rows, "float32" or "bfloat16"; "auto" for embeddings as they are computed, and
        logits in float32.
      fast_cpu: as `fill` has it.
    """

    def __init__(
        self,
        network: networks.Network,
        variables: Any,
        folded: Callable[[], Any],
        folders: Sequence[pathlib.Path],
        dataset: Dataset,
        mesh: jax.sharding.Mesh,
        *,
        dtype: str = "auto",
        fast_cpu: bool = True,
    ):
        self._network, self._folders = network, folders
        self._members = ensemble.members(network, variables)
        self._folded, self._mesh = folded, mesh
        self._split, self._version = dataset.train, dataset.version
        self._image_shape = dataset.image_shape
        self._dtype, self._fast_cpu = dtype, fast_cpu
        self._kept: dict[tuple[pathlib.Path, str], Any] = {}  # by folder and place
        self._on_host: tuple[np.ndarray, ...] = ()  # of the last `get`

    def bytes_needed(self, augment: Augment) -> float:
        """Memory of each device that the embeddings still have to take, if they lie there."""
        missing = [
            table
            for table in self._plan(augment)
            if (table.rows.folder, "device") not in self._kept
        ]
        return sum(table.device_bytes(self._mesh.size) for table in missing)

    def bytes_free(self) -> float:
        """Memory of each device that nothing uses yet, about."""
        return parallel.free_bytes(self._mesh)

    def bytes_whole(self, augment: Augment) -> int:
        """Of all embeddings, on a host or in files."""
        return sum(table.rows.bytes for table in self._plan(augment))

    def bytes_on_disk(self, augment: Augment) -> tuple[int, int]:
        """Returns (bytes that files still have to take, about; what is free there)."""
        tables = list(self._plan(augment))
        needed = sum(table.rows.bytes for table in tables if not table.rows.is_whole())
        return needed, min(_free_on_disk(table.rows.folder) for table in tables)

    def exists(self, augment: Augment) -> bool:
        """Whether the embeddings are in memory or on disk."""
        folders = {folder for folder, _ in self._kept}
        return all(
            table.rows.folder in folders or table.rows.is_whole() for table in self._plan(augment)
        )

    def get(
        self, augment: Augment, place: str = "device", stop: Callable[[], bool] = lambda: False
    ) -> dict[str, tuple[Any, ...]]:
        """What `outputs.cached` reads: from memory, from the disk, or computed by the teacher.

        Args:
          augment: whose views.
          place: as a Plan's; with "host" and "file" the batches bring their `rows`.
          stop: whether to break off; asked now and then.

        Raises:
          InputError: the disk cannot keep what it has to.
          PreemptedError: `stop` said so.
        """
        heads, tables = [], []
        for i, table in enumerate(self._plan(augment)):
            key = (table.rows.folder, place)
            if key not in self._kept:
                with workdir.turn(table.rows.folder.with_suffix(".lock"), stop):
                    rows = self._whole(i, table, augment, place, stop)
                self._kept[key] = self._placed(rows, place)
            tables.append(self._kept[key])
            heads.append(self._head(table))
        self._on_host = () if place == "device" else tuple(tables)
        return {"embedding": tuple(tables) if place == "device" else (), "head": tuple(heads)}

    def rows(self, index: np.ndarray, view: np.ndarray) -> tuple[np.ndarray, ...]:
        """What the host keeps of views [B] of images [B], after `get`: for each member a [B, D]."""
        return tuple(np.asarray(table[index, view]) for table in self._on_host)

    def _head(self, table: _Table) -> Any:
        if not self._summary(table.network).outputs.head:
            return ()
        return networks.head(table.network, table.variables, self._image_shape)

    def _plan(self, augment: Augment) -> Iterator[_Table]:
        members = zip(self._members, self._folders, self._digests, strict=True)
        for (network, variables), folder, digests in members:
            shapes = self._summary(network).outputs
            width = jax.eval_shape(outputs.cached_row, shapes).shape[-1]
            shape = len(self._split), augment.views, width
            # Logits are kept as they are; embeddings, as precisely as they were computed.
            keeps_logits = not shapes.head and not isinstance(shapes.logits, tuple)
            usual = np.dtype(np.float32 if keeps_logits else network.dtype)
            dtype = _DTYPES.get(self._dtype, usual)
            known = repr((repr(network), digests, augment.name, shape, dtype.name))
            name = hashlib.sha256(known.encode()).hexdigest()[:16]
            yield _Table(network, variables, Rows(folder.absolute() / name, shape, dtype))

    def _summary(self, network: networks.Network) -> networks.Summary:
        return networks.summarize(network, self._image_shape)

    @functools.cached_property
    def _digests(self) -> list[tuple[str, str]]:
        """Of the images and each member's weights."""
        if self._split.on_device:
            images = checkpoints.digest(self._split.images)
        else:  # nobody looks at all of them beforehand
            places = np.linspace(0, len(self._split) - 1, _LOOKED_AT).astype(int)
            (looked_at,) = self._split.images_at(places, _LOOKED_AT)
            images = repr((self._version, checkpoints.host_digest(looked_at)))
        return [(images, checkpoints.digest(variables)) for _, variables in self._members]

    def _whole(
        self, i: int, table: _Table, augment: Augment, place: str, stop: Callable[[], bool]
    ) -> np.ndarray:
        """All rows of a member; those that are missing are computed first."""
        start, rows = time.monotonic(), table.rows
        missing, damaged = rows.missing()
        if damaged:
            console.warn(
                f"the teacher's embeddings in {rows.folder} are damaged, of {damaged:,} images: it"
                " is shown these again"
            )
        if not len(missing):
            whole = rows.read()
            seconds = time.monotonic() - start
            console.say(f"the teacher's embeddings are read from {rows.folder} in {seconds:.0f} s")
            return whole
        if 0 < len(missing) < rows.shape[0]:
            known = rows.shape[0] - len(missing)
            console.say(f"the teacher has seen {known:,} of {rows.shape[0]:,} images before")
        _, folded = ensemble.members(self._network, self._folded())[i]
        written = rows
        try:
            about = {"views": augment.name}
            parallel.main_first(lambda: rows.begin(about) if parallel.is_main() else None)
            self._fill(table, folded, augment, missing, written, stop)
        except OSError as error:
            written, missing = self._fallback(rows, error, place), np.arange(rows.shape[0])
            self._fill(table, folded, augment, missing, written, stop)
        seconds = time.monotonic() - start
        rate = len(missing) * augment.views / seconds
        console.say(f"the teacher has seen all views in {seconds:.0f} s, {rate:,.0f} images/s")
        parallel.main_first(lambda: None)  # the others' rows are there
        return written.read()

    def _fill(self, table, folded, augment, missing, written, stop):
        fill(
            table.network,
            folded,
            self._split,
            augment,
            self._mesh,
            missing,
            written.write,
            stop,
            fast_cpu=self._fast_cpu,
        )

    def _fallback(self, rows: Rows, error: OSError, place: str) -> RowsInMemory:
        """Where rows are written that the disk does not take."""
        if place == "file":
            raise errors.InputError(
                f"the teacher's embeddings cannot be kept in {rows.folder} ({error}); make room"
                " there, or set teacher.cache to off"
            ) from error
        memory = fallback(rows, error)
        console.warn(
            f"the next run will show them again: {rows.folder} cannot be written ({error})"
        )
        return memory

    def _placed(self, rows: np.ndarray, place: str) -> Any:
        """Rows where steps, or the host, read them."""
        if place == "file":
            return rows
        if place == "host":
            return np.array(rows)
        count, views, width = rows.shape
        step = math.lcm(_ROWS, self._mesh.size)
        shape = (-(-count // step) * step * views, width)

        def part(index):
            first, stop, _ = index[0].indices(shape[0])
            there = rows[first // views : stop // views].reshape(-1, width)
            return np.pad(there, ((0, stop - first - len(there)), (0, 0)))

        return jax.make_array_from_callback(shape, parallel.split(self._mesh), part)


def _free_on_disk(folder: pathlib.Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free


def plan(cache: EmbeddingCache, recipe: Recipe, began: bool | None) -> Plan:
    """Whether to use the cache, and where it is.

    Args:
      cache: of the teacher.
      recipe: whose `teacher_cache` is on or auto.
      began: whether a run that goes on began with the cache, for its numbers to go on; None for a
        new run.

    Raises:
      InputError: it is on, where it cannot be.
    """
    training = recipe.training
    forced, views = training.teacher_cache.use == "on", training.augment.views
    obstacle, place = _obstacle(training, recipe.objectives), ""
    if not obstacle:
        place, obstacle = _place(cache, training)
    if obstacle and forced:
        raise _cannot(obstacle)
    if obstacle:
        return Plan("", f"the teacher runs at each step: {obstacle}")
    pays = forced or training.epochs > views or cache.exists(training.augment)
    if not (parallel.as_main(pays) if began is None else began):
        return Plan(
            "",
            f"the teacher runs at each step: remembering all {views} views of an image"
            f" pays for more than {views} epochs",
        )
    where = {
        "device": f"{cache.bytes_needed(training.augment) / 1e9:.2f} GB on each device",
        "host": f"{cache.bytes_whole(training.augment) / 1e9:.2f} GB in the host's memory",
        "file": f"{cache.bytes_whole(training.augment) / 1e9:.2f} GB in a file",
    }[place]
    return Plan(
        place,
        f"the teacher does not run, but is remembered: its embeddings of all {views}"
        f" views of an image, {where}",
    )


def _place(cache: EmbeddingCache, training: Training) -> tuple[str, str]:
    """Returns (where embeddings are to be, why they can be nowhere), one of them ""."""
    augment, asked = training.augment, training.teacher_cache.place
    part = 1 if training.teacher_cache.use == "on" else 0.5
    share = part if asked == "host" else _HOST_SHARE
    # What is needed, what is there, the part of it that they may take, and where that is.
    rooms = {
        "device": (cache.bytes_needed(augment), cache.bytes_free(), part, "on each device"),
        "host": (cache.bytes_whole(augment), parallel.host_bytes(), share, "of the host"),
        "file": (*cache.bytes_on_disk(augment), 1, "on the disk"),
    }
    places = ("device",) if augment.choose else tuple(rooms)
    for place in places if asked == "auto" else (asked,):
        needed, there, most, where = rooms[place]
        if parallel.as_main(needed <= there * most):
            return place, ""
    return "", f"its embeddings of all views would need {_of(needed, there)} {where}"


def _of(needed: float, free: float) -> str:
    return f"{needed / 1e9:.2f} GB of the {free / 1e9:.2f} GB that are free"


def check(training: Training, objectives: Mapping[str, Objective]) -> None:
    """Raises an InputError where the cache is on and cannot be, whatever the memory."""
    obstacle, choice = _obstacle(training, objectives), training.teacher_cache
    if obstacle and choice.use == "on":
        raise _cannot(obstacle)
    if choice.use != "off" and choice.place in ("host", "file") and training.augment.choose:
        raise errors.InputError(
            f"teacher.cache_place is {choice.place}, but the step draws the views: set"
            " data.views.count, or leave teacher.cache_place out"
        )


def _cannot(obstacle: str) -> errors.InputError:
    return errors.InputError(f"teacher.cache is on, but {obstacle}; set it to auto")


def _obstacle(training: Training, objectives: Mapping[str, Objective]) -> str:
    """Why embeddings cannot take the teacher's place, "" where they can."""
    if training.mix:
        return "each image is mixed with another"
    if not training.augment.views:
        return "no image is shown the same way twice, which data.views.count changes"
    for name, objective in objectives.items():
        if objective.needs_teacher and objective.needs_maps:
            return f"'{name}' compares maps"
    return ""
