"""The teacher's embeddings of all views of the training images, in memory and on disk.

Where an augmentation shows an image in a limited number of views, as crop and flip do, a teacher
whose embeddings of all views are cached need not run again, in this run or any other. Its logits
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
from jax.sharding import PartitionSpec

from rrd_jax import (
    checkpoints,
    compiling,
    console,
    errors,
    networks,
    parallel,
    workdir,
)
from rrd_jax.data import feed
from rrd_jax.data.augment import Augment
from rrd_jax.objectives import Objective
from rrd_jax.recipe import Recipe, Training
from rrd_jax.teacher import ensemble, outputs

# Pixels per device per call. A CPU is slower where they do not fit into its caches.
_PIXELS = {"cpu": 2**18, "others": 2**21}
_ROWS = 8  # the images fill a multiple of this, so that most meshes can read what another wrote


class _Table(NamedTuple):
    """The embeddings of one member of the network.

    Attributes:
      network: the member.
      variables: its weights.
      path: where the embeddings are kept.
      like: their shape [rows * views, D], type and sharding.
    """

    network: networks.Network
    variables: Any
    path: pathlib.Path
    like: jax.ShapeDtypeStruct


class EmbeddingCache:
    """The embeddings of one teacher, or several; filled or read once, then kept.

    Args:
      network: of `networks.create`, or an Ensemble.
      variables: its weights, on the devices.
      folded: () -> what `fold.fold` makes of them.
      folders: where the embeddings of each member are kept.
      split: the images.
      mesh: the devices; embeddings are split over them by image.
      fast_cpu: as `fill` has it.
    """

    def __init__(
        self,
        network: networks.Network,
        variables: Any,
        folded: Callable[[], Any],
        folders: Sequence[pathlib.Path],
        split: feed.Resident,
        mesh: jax.sharding.Mesh,
        *,
        fast_cpu: bool = True,
    ):
        self._network, self._folders = network, folders
        self._members = ensemble.members(network, variables)
        self._folded, self._split, self._mesh = folded, split, mesh
        self._fast_cpu = fast_cpu
        self._tables: dict[pathlib.Path, jax.Array] = {}

    def bytes_needed(self, augment: Augment) -> float:
        """Memory of each device that the embeddings still have to take."""
        missing = [t.like for t in self._plan(augment) if t.path not in self._tables]
        return sum(like.size * like.dtype.itemsize for like in missing) / self._mesh.size

    def bytes_free(self) -> float:
        """Memory of each device that nothing uses yet, about."""
        return parallel.free_bytes(self._mesh)

    def exists(self, augment: Augment) -> bool:
        """Whether the embeddings are in memory or on disk."""
        paths = [table.path for table in self._plan(augment)]
        return all(path in self._tables or checkpoints.exists(path) for path in paths)

    def get(
        self, augment: Augment, stop: Callable[[], bool] = lambda: False
    ) -> dict[str, tuple[Any, ...]]:
        """What `outputs.cached` reads: from memory, from the disk, or computed by the teacher.

        Raises:
          PreemptedError: `stop` said so in between.
        """
        heads = []
        for i, table in enumerate(self._plan(augment)):
            if table.path not in self._tables:
                with workdir.turn(table.path.with_suffix(".lock"), stop):
                    embeddings = self._read(table)
                    if embeddings is None:
                        embeddings = self._fill(i, table, augment, stop)
                self._tables[table.path] = embeddings
            heads.append(self._head(table))
        embeddings = tuple(self._tables[table.path] for table in self._plan(augment))
        return {"embedding": embeddings, "head": tuple(heads)}

    def _head(self, table: _Table) -> Any:
        if not self._summary(table.network).outputs.head:
            return ()
        return networks.head(table.network, table.variables, self._split.images.shape[1:])

    def _plan(self, augment: Augment) -> Iterator[_Table]:
        step = math.lcm(_ROWS, self._mesh.size)
        rows = -(-len(self._split) // step) * step * augment.views
        members = zip(self._members, self._folders, self._digests, strict=True)
        for (network, variables), folder, digests in members:
            shapes = self._summary(network).outputs
            shape = (rows, jax.eval_shape(outputs.cached_row, shapes).shape[-1])
            # Logits are kept as they are; embeddings, as precisely as they were computed.
            keeps_logits = not shapes.head and not isinstance(shapes.logits, tuple)
            dtype = jnp.float32 if keeps_logits else network.dtype
            like = jax.ShapeDtypeStruct(shape, dtype, sharding=parallel.split(self._mesh))
            known = repr((repr(network), digests, augment.name, shape))
            name = hashlib.sha256(known.encode()).hexdigest()[:16]
            yield _Table(network, variables, folder.absolute() / name, like)

    def _summary(self, network: networks.Network) -> networks.Summary:
        return networks.summarize(network, self._split.images.shape[1:])

    @functools.cached_property
    def _digests(self) -> list[tuple[str, str]]:
        """Of the images and each member's weights."""
        images = checkpoints.digest(self._split.images)
        return [(images, checkpoints.digest(variables)) for _, variables in self._members]

    def _read(self, table: _Table) -> jax.Array | None:
        if not parallel.as_main(checkpoints.exists(table.path)):
            return None
        start = time.monotonic()
        arrays = checkpoints.load_arrays(table.path, {"embedding": table.like})
        if arrays is None:
            return None
        seconds = time.monotonic() - start
        console.say(f"the teacher's embeddings are read from {table.path} in {seconds:.0f} s")
        return arrays["embedding"]

    def _fill(self, i: int, table: _Table, augment: Augment, stop: Callable[[], bool]) -> jax.Array:
        start = time.monotonic()
        _, folded = ensemble.members(self._network, self._folded())[i]
        embeddings = fill(
            table.network,
            folded,
            table.like,
            self._split.images,
            augment,
            self._mesh,
            stop,
            fast_cpu=self._fast_cpu,
        )
        seconds = time.monotonic() - start
        rate = len(self._split) * augment.views / seconds
        console.say(f"the teacher has seen all views in {seconds:.0f} s, {rate:,.0f} images/s")
        try:
            parallel.main_first(lambda: parallel.is_main() and shutil.rmtree(table.path, True))
            checkpoints.save_arrays(table.path, {"embedding": embeddings}, {"views": augment.name})
        except errors.InputError as error:
            console.warn(f"the next run will show them again: {error}")
        return embeddings


def plan(cache: EmbeddingCache | None, recipe: Recipe, began: bool | None) -> tuple[bool, str]:
    """Returns (whether to use the cache, the reason to log).

    Args:
      cache: None where the training images are streamed.
      recipe: whose `teacher_cache` is "on" or "auto".
      began: whether a run that goes on began with the cache, for its numbers to go on; None for a
        new run.

    Raises:
      InputError: "on", where it cannot be.
    """
    training = recipe.training
    forced, views = training.teacher_cache == "on", training.augment.views
    obstacle = _obstacle(training, recipe.objectives, streamed=cache is None)
    if not obstacle:
        needed, free = cache.bytes_needed(training.augment), cache.bytes_free()
        if not parallel.as_main(needed <= (free if forced else free / 2)):
            sizes = f"{needed / 1e9:.2f} GB of the {free / 1e9:.2f} GB that are free"
            obstacle = f"its embeddings of all views would need {sizes} on each device"
    if obstacle and forced:
        raise _cannot(obstacle)
    if obstacle:
        return False, f"the teacher runs at each step: {obstacle}"
    pays = forced or training.epochs > views or cache.exists(training.augment)
    if not (parallel.as_main(pays) if began is None else began):
        return False, (
            f"the teacher runs at each step: remembering all {views} views of an image"
            f" pays for more than {views} epochs"
        )
    return True, (
        f"the teacher does not run, but is remembered: its embeddings of all {views}"
        f" views of an image, {needed / 1e9:.2f} GB on each device"
    )


def check(training: Training, objectives: Mapping[str, Objective], *, streamed: bool) -> None:
    """Raises an InputError where the cache is "on" and cannot be, whatever the memory."""
    obstacle = _obstacle(training, objectives, streamed=streamed)
    if obstacle and training.teacher_cache == "on":
        raise _cannot(obstacle)


def _cannot(obstacle: str) -> errors.InputError:
    return errors.InputError(f"teacher.cache is on, but {obstacle}; set it to auto")


def _obstacle(training: Training, objectives: Mapping[str, Objective], *, streamed: bool) -> str:
    """Why embeddings cannot take the teacher's place, "" where they can."""
    if streamed:
        return "training images are streamed"
    if training.mix:
        return "each image is mixed with another"
    if not training.augment.views:
        return "no image is shown the same way twice"
    for name, objective in objectives.items():
        if objective.needs_teacher and objective.needs_maps:
            return f"'{name}' compares maps"
    return ""


def fill(
    network: networks.Network,
    variables: Any,
    like: jax.ShapeDtypeStruct,
    images: np.ndarray,
    augment: Augment,
    mesh: jax.sharding.Mesh,
    stop: Callable[[], bool] = lambda: False,
    *,
    fast_cpu: bool = True,
) -> jax.Array:
    """The embeddings of all views of all images, view by view of image by image.

    Each device embeds its part of the images without the others; a line shows how far they are.

    Args:
      network: of `networks.create`.
      variables: for it, on every device.
      like: [rows * views, D], split over the mesh; rows beyond the images are of black ones.
      images: [N, H, W, channels] uint8.
      augment: the views.
      mesh: the devices.
      stop: whether to break off; asked now and then.
      fast_cpu: whether a CPU computes as fast as it can, with other rounding.

    Raises:
      PreemptedError: it was broken off.
    """
    shape, views = images.shape[1:], augment.views
    share = like.shape[0] // views // mesh.size  # images of each device
    pixels = _PIXELS.get(mesh.devices.flat[0].platform, _PIXELS["others"])
    count = min(share, max(1, pixels // (views * shape[0] * shape[1])))
    embed = _compile_embed(network, augment, mesh, shape, count, fast_cpu)
    table = jax.jit(lambda: jnp.zeros(like.shape, like.dtype), out_shardings=like.sharding)()
    rows = images.reshape(len(images), -1)
    rows = np.pad(rows, ((0, share * mesh.size - len(rows)), (0, 0)))
    rows = parallel.put(parallel.split(mesh), rows)
    for first in range(0, share, count):
        console.progress("teacher", [f"{first / share:.0%} of all views are seen"])
        # The last call may reach back to images that were seen.
        table = embed(table, variables, rows, np.int32(min(first, share - count)))
        table.block_until_ready()
        if stop():
            raise errors.PreemptedError(
                "stopped by SIGTERM while the teacher was shown all views; the same command"
                " starts with that again"
            )
    return table


def _compile_embed(
    network: networks.Network,
    augment: Augment,
    mesh: jax.sharding.Mesh,
    shape: tuple[int, ...],
    count: int,
    fast_cpu: bool,
) -> Callable:
    """(table, variables, images, first) -> the table with `count` images of each device in it."""

    def embed(table, variables, images, first):
        part = jax.lax.dynamic_slice_in_dim(images, first, count).reshape(count, *shape)
        view = jnp.tile(jnp.arange(augment.views), count)
        part = augment.show(view, jnp.repeat(part, augment.views, axis=0))
        embedding = outputs.cached_row(network.apply(variables, part, train=False))
        return jax.lax.dynamic_update_slice_in_dim(
            table, embedding.astype(table.dtype), first * augment.views, axis=0
        )

    split, everywhere = PartitionSpec(parallel.AXIS), PartitionSpec()
    specs = (split, everywhere, split, everywhere)
    mapped = jax.shard_map(embed, mesh=mesh, in_specs=specs, out_specs=split)
    return compiling.for_mesh(mapped, mesh, fast_cpu=fast_cpu, onednn=True, donate_argnums=0)
