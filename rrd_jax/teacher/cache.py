"""A frozen teacher remembered: its embeddings of all views of the training images.

Where an augmentation shows an image in a limited number of views, as crop and flip do, a teacher
that has seen all of them need not run again, in this run or any other. Its logits follow from its
embeddings.
"""

import functools
import hashlib
import math
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.sharding import PartitionSpec

from rrd_jax import checkpoints, errors, networks, parallel
from rrd_jax.data import augment, feed
from rrd_jax.teacher import ensemble

# That each device looks at at once. A CPU is slower where they do not fit into its caches.
_PIXELS = {"cpu": 2**18, "others": 2**21}
_ROWS = 8  # the images fill a multiple of this, so that most meshes can read what another wrote


class Views:
    """What one teacher, or several, remember of a training split; filled or read once, then kept.

    Args:
      network: of `networks.create`, or an Ensemble.
      variables: its weights, on the devices.
      folded: () -> what `fold.fold` makes of them.
      folders: where the embeddings of each member are kept.
      split: the images.
      mesh: the devices; embeddings are split over them by image.
    """

    def __init__(
        self,
        network: Any,
        variables: Any,
        folded: Callable[[], Any],
        folders: Sequence[pathlib.Path],
        split: feed.Resident,
        mesh: jax.sharding.Mesh,
    ):
        self._network, members = network, ensemble.members(network, variables)
        self._members = [(*one, path) for one, path in zip(members, folders, strict=True)]
        self._folded, self._split, self._mesh = folded, split, mesh
        self._kept: dict[pathlib.Path, jax.Array] = {}

    def size(self, shown: augment.Augment) -> float:
        """Bytes of each device that are still to be taken."""
        members = (like for _, _, path, like in self._plan(shown) if path not in self._kept)
        return sum(like.size * like.dtype.itemsize for like in members) / self._mesh.size

    def free(self) -> float:
        """Bytes of each device that nothing uses yet, about."""
        return parallel.free_bytes(self._mesh)

    def ready(self, shown: augment.Augment) -> bool:
        """Whether the teacher need not run for them any more."""
        paths = [path for _, _, path, _ in self._plan(shown)]
        return all(path in self._kept or checkpoints.exists(path) for path in paths)

    def get(
        self, shown: augment.Augment, stop: Callable[[], bool] = lambda: False
    ) -> dict[str, tuple]:
        """What `steps.recalling` reads: from the devices, the disk, or the teacher itself.

        Raises:
          PreemptedError: `stop` said so in between.
        """
        embeddings, heads = [], []
        for i, (member, variables, path, like) in enumerate(self._plan(shown)):
            if path not in self._kept:
                found = self._read(path, like)
                if found is None:
                    found = self._fill(i, path, like, shown, stop)
                self._kept[path] = found
            embeddings.append(self._kept[path])
            heads.append(variables["params"][self._summary(member).classifier])
        return {"embedding": tuple(embeddings), "head": tuple(heads)}

    def _plan(self, shown):
        """Each member with its variables, where its embeddings are kept, and their shape."""
        step = math.lcm(_ROWS, self._mesh.size)
        rows = -(-len(self._split) // step) * step * shown.views
        for (member, variables, folder), digest in zip(self._members, self._digests, strict=True):
            shape = (rows, self._summary(member).outputs.embedding.shape[-1])
            like = jax.ShapeDtypeStruct(shape, member.dtype, sharding=parallel.split(self._mesh))
            known = repr((repr(member), digest, shown.name, shape))
            name = hashlib.sha256(known.encode()).hexdigest()[:16]
            yield member, variables, folder.absolute() / name, like

    def _summary(self, member):
        return networks.summarize(member, self._split.images.shape[1:])

    @functools.cached_property
    def _digests(self):
        """Of the images and each member's weights."""
        images = checkpoints.digest(self._split.images)
        return [(images, checkpoints.digest(variables)) for _, variables, _ in self._members]

    def _read(self, path, like):
        if not parallel.as_main(checkpoints.exists(path)):
            return None
        start = time.monotonic()
        found = checkpoints.load_arrays(path, {"embedding": like})
        if found is None:
            return None
        print(f"the teacher's embeddings are read from {path} in {time.monotonic() - start:.0f} s")
        return found["embedding"]

    def _fill(self, i, path, like, shown, stop):
        start = time.monotonic()
        member, folded = ensemble.members(self._network, self._folded())[i]
        table = fill(member, folded, like, self._split.images, shown, self._mesh, stop)
        seconds = time.monotonic() - start
        rate = len(self._split) * shown.views / seconds
        print(f"the teacher has seen all views in {seconds:.0f} s, {rate:,.0f} images/s")
        try:
            parallel.main_first(lambda: parallel.is_main() and shutil.rmtree(path, True))
            checkpoints.save_arrays(path, {"embedding": table}, {"views": shown.name})
        except errors.InputError as error:
            print(f"warning: the next run will show them again: {error}")
        return table


def plan(views: Views | None, recipe: Any, began: bool | None) -> tuple[bool, str]:
    """Whether a run reads what the teacher remembers, or runs it; and that, or why not, as a line.

    Args:
      views: None where the training images are streamed.
      recipe: a `program.Recipe`, whose `teacher_cache` is "on" or "auto".
      began: what a run that goes on began with, for its numbers to go on; None for a new one.

    Raises:
      InputError: "on", where it cannot be.
    """
    forced, shown = recipe.teacher_cache == "on", recipe.augment
    terms = recipe.objectives.items()
    readers = [name for name, one in terms if one.needs_teacher and one.needs_maps]
    obstacle = ""
    if not views:
        obstacle = "training images are streamed"
    elif recipe.mix:
        obstacle = "each image is mixed with another"
    elif not shown.views:
        obstacle = "no image is cut the same way twice"
    elif readers:
        obstacle = f"'{readers[0]}' compares maps"
    else:
        needed, free = views.size(shown), views.free()
        if not parallel.as_main(needed <= (free if forced else free / 2)):
            sizes = f"{needed / 1e9:.2f} GB of the {free / 1e9:.2f} GB that are free"
            obstacle = f"its embeddings of all views would need {sizes} on each device"
    if obstacle and forced:
        raise errors.InputError(f"teacher.cache is on, but {obstacle}; set it to auto")
    if obstacle:
        return False, f"the teacher runs at each step: {obstacle}"
    pays = forced or recipe.epochs > shown.views or views.ready(shown)
    if not (parallel.as_main(pays) if began is None else began):
        return False, (
            f"the teacher runs at each step: remembering all {shown.views} views of an image"
            f" pays for more than {shown.views} epochs"
        )
    return True, (
        f"the teacher does not run, but is remembered: its embeddings of all {shown.views}"
        f" views of an image, {needed / 1e9:.2f} GB on each device"
    )


def fill(
    network: Any,
    variables: Any,
    like: jax.ShapeDtypeStruct,
    images: np.ndarray,
    shown: augment.Augment,
    mesh: jax.sharding.Mesh,
    stop: Callable[[], bool] = lambda: False,
) -> jax.Array:
    """The embeddings of all views of all images, view by view of image by image.

    Each device looks at its own images, on its own; a bar shows how far they are.

    Args:
      network: of `networks.create`.
      variables: for it, on every device.
      like: [rows * views, D], split over the mesh; rows beyond the images are of black ones.
      images: [N, H, W, channels] uint8.
      shown: the views.
      mesh: the devices.
      stop: whether to break off; asked now and then.

    Raises:
      PreemptedError: it was broken off.
    """
    shape, views = images.shape[1:], shown.views
    own = like.shape[0] // views // mesh.size  # images of each device
    pixels = _PIXELS.get(mesh.devices.flat[0].platform, _PIXELS["others"])
    count = min(own, max(1, pixels // (views * shape[0] * shape[1])))

    def look(table, variables, images, first):
        part = jax.lax.dynamic_slice_in_dim(images, first, count).reshape(count, *shape)
        part = shown.show(jnp.tile(jnp.arange(views), count), jnp.repeat(part, views, axis=0))
        embedding = network.apply(variables, part, train=False).embedding
        return jax.lax.dynamic_update_slice_in_dim(
            table, embedding.astype(table.dtype), first * views, axis=0
        )

    split, everywhere = PartitionSpec(parallel.AXIS), PartitionSpec()
    look = jax.jit(
        jax.shard_map(
            look, mesh=mesh, in_specs=(split, everywhere, split, everywhere), out_specs=split
        ),
        donate_argnums=0,
    )
    table = jax.jit(lambda: jnp.zeros(like.shape, like.dtype), out_shardings=like.sharding)()
    flat = images.reshape(len(images), -1)
    flat = np.pad(flat, ((0, own * mesh.size - len(flat)), (0, 0)))
    flat = parallel.put(parallel.split(mesh), flat)
    bar = tqdm.tqdm(
        total=own * mesh.size * views,
        desc="teacher sees all views",
        unit=" images",
        unit_scale=True,
        file=sys.stdout,
        mininterval=0.1 if sys.stdout.isatty() else 30,
    )
    with bar:
        for first in range(0, own, count):
            # The last look may reach back to images that were seen.
            table = look(table, variables, flat, np.int32(min(first, own - count)))
            table.block_until_ready()
            bar.update(min(count, own - first) * mesh.size * views)
            if stop():
                raise errors.PreemptedError(
                    "stopped by SIGTERM while the teacher was shown all views; the same command"
                    " starts with that again"
                )
    return table
