"""Computation of a teacher's outputs for all views of images."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from rrd_jax import errors, networks, parallel
from rrd_jax.cpu import compiling
from rrd_jax.data.augment.pipeline import Augment
from rrd_jax.data.feeds import feed
from rrd_jax.teacher import step_outputs
from rrd_jax.terminal import console

# Pixels per device and call; a CPU is slower if they do not fit into its caches.
_PIXELS = {"cpu": 2**18, "others": 2**21}


def fill(
    network: networks.Network,
    variables: Any,
    split: feed.Resident | feed.Streamed,
    augment: Augment,
    mesh: jax.sharding.Mesh,
    index: np.ndarray,
    keep: Callable[[np.ndarray, np.ndarray], None],
    stop: Callable[[], bool] = lambda: False,
    *,
    fast_cpu: bool = True,
) -> None:
    """Computes the rows of all views of images, with a progress line.

    Args:
      network: of `networks.create`.
      variables: its weights, on every device.
      split: the images.
      augment: the views.
      mesh: the devices.
      index: [n] images, n > 0.
      keep: called with (images [b], rows [b, views, width] of `step_outputs.cached_row`) for the
        images of this process's devices; the last images may be repeated.
      stop: polled between batches; True stops.
      fast_cpu: whether a CPU may use faster operations that round differently.

    Raises:
      PreemptedError: `stop` returned True; rows that were kept remain valid.
    """
    pixels = _PIXELS.get(mesh.devices.flat[0].platform, _PIXELS["others"])
    at_once = max(1, pixels // split.size**2)
    views = min(augment.views, at_once)
    share = min(-(-len(index) // mesh.size), max(1, at_once // views))
    count = share * mesh.size
    every = np.concatenate([index, np.repeat(index[-1:], -len(index) % count)])
    shape = (split.size, split.size, split.channels)
    # Of the whole split, so that a cache filled in two starts has the same rows.
    ordinary = compiling.ordinary_calls(networks.summarize(network, shape).macs)
    onednn = len(split) * augment.views > ordinary
    embed = _compile_embed(network, augment, mesh, views, fast_cpu, onednn)
    waiting = None
    for i, images in enumerate(split.images_at(every, count, parallel.process_share())):
        which = every[i * count : (i + 1) * count]
        found = _rows(embed, variables, images, which, augment.views, views, mesh)
        if waiting:  # Rows are fetched while the devices compute the next batch.
            _keep(waiting, keep)
        waiting = which, found
        console.progress("teacher", [f"{i * count / len(every):.0%} of all views are cached"])
        if stop():
            _keep(waiting, keep)
            raise errors.PreemptedError(
                "stopped by SIGTERM while the teacher's embeddings were cached; run the same"
                " command again to continue"
            )
    _keep(waiting, keep)


def _rows(
    embed: Callable,
    variables: Any,
    images: np.ndarray,
    which: np.ndarray,
    count: int,
    at_once: int,
    mesh: jax.sharding.Mesh,
) -> list[tuple[int, jax.Array]]:
    """Returns (first view, rows [b, at_once, width]) of each part of the views, on the devices."""
    here = parallel.share_of(which).astype(np.int32)
    by_host = images.ndim == 5  # The host has computed all views.
    placed = parallel.put_batch(mesh, {"index": here} | ({} if by_host else {"image": images}))
    found = []
    for start in range(0, count, at_once):
        first = min(start, count - at_once)  # The last part may overlap the one before.
        if by_host:
            part = np.ascontiguousarray(images[:, first : first + at_once])
            placed |= parallel.put_batch(mesh, {"image": part})
        found.append((first, embed(variables, placed["image"], placed["index"], np.int32(first))))
    return found


def _keep(
    waiting: tuple[np.ndarray, list[tuple[int, jax.Array]]],
    keep: Callable[[np.ndarray, np.ndarray], None],
) -> None:
    """Fetches the rows of this process's devices."""
    which, found = waiting
    shards = [array.addressable_shards for _, array in found]
    for parts in zip(*shards, strict=True):
        firsts = [first for first, _ in found]
        made = list(zip(firsts, [np.asarray(part.data) for part in parts], strict=True))
        last, final = made[-1]
        count, at_once, width = final.shape
        rows = np.empty((count, last + at_once, width), final.dtype)
        for first, part in made:
            rows[:, first : first + at_once] = part
        keep(which[parts[0].index[0]], rows)


def _compile_embed(
    network: networks.Network,
    augment: Augment,
    mesh: jax.sharding.Mesh,
    count: int,
    fast_cpu: bool,
    onednn: bool,
) -> Callable:
    """Compiles (variables, images, index [b], first) -> rows [b, count, width] of `count` views.

    Images are [b, H, W, channels], or [b, count, H, W, channels] if the host has computed views.
    """
    show = augment.show_teacher or augment.show

    def embed(variables, images, index, first):
        images = images if images.ndim == 5 else jnp.repeat(images[:, None], count, axis=1)
        view = jnp.tile(first + jnp.arange(count), len(index))
        images = images.reshape(-1, *images.shape[2:])
        shown = show(view, jnp.repeat(index, count), images)
        rows = step_outputs.cached_row(network.apply(variables, shown, train=False))
        return rows.reshape(len(index), count, -1)

    split, everywhere = PartitionSpec(parallel.AXIS), PartitionSpec()
    specs = (everywhere, split, split, everywhere)
    mapped = jax.shard_map(embed, mesh=mesh, in_specs=specs, out_specs=split)
    return compiling.for_mesh(mapped, mesh, fast_cpu=fast_cpu, onednn=onednn)
