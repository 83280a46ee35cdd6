"""Computation of a teacher's outputs for all views of the training images."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from rrd_jax import networks, parallel
from rrd_jax.cpu import compiling
from rrd_jax.data.augment.pipeline import Augment
from rrd_jax.data.feeds import feed
from rrd_jax.terminal import console, interrupts

# Pixels per device and call; a CPU is slower if they do not fit into its caches.
_PIXELS = {"cpu": 2**18, "others": 2**21}


def fill(
    network: networks.Network,
    variables: Any,
    split: feed.Resident | feed.Streamed,
    augment: Augment,
    mesh: jax.sharding.Mesh,
    index: np.ndarray,
    encode: Callable[[networks.Outputs], jax.Array],
    store: Callable[[np.ndarray, np.ndarray], None],
    stop: Callable[[], bool] = lambda: False,
    *,
    fast_cpu: bool = True,
    fully: bool = False,
) -> None:
    """Computes the rows of all views of images, with a progress line.

    Args:
      network: a network of `networks.create`.
      variables: weights of the network, with the shardings of `parallel.weight_shardings`.
      split: the split with the images.
      augment: the views.
      mesh: the devices.
      index: [n], images, n > 0.
      encode: function from Outputs to rows [B, width].
      store: called with (images [b], rows [b, views, width]) for the images of this process's
        devices; the last images may be repeated.
      stop: polled between batches; True stops.
      fast_cpu: whether a CPU may use faster operations that round differently.
      fully: see `parallel.weight_axes`.

    Raises:
      PreemptedError: `stop` returned True; stored rows remain valid.
    """
    pixels = _PIXELS.get(mesh.devices.flat[0].platform, _PIXELS["others"])
    at_once = max(1, pixels // split.size**2)
    views = min(augment.views, at_once)
    share = min(-(-len(index) // mesh.size), max(1, at_once // views))
    count = share * mesh.size
    padded = np.concatenate([index, np.repeat(index[-1:], -len(index) % count)])
    shape = (split.size, split.size, split.channels)
    # The choice depends on the whole split, so that a cache filled in two starts has equal rows.
    ordinary = compiling.calls_without_onednn(networks.summarize(network, shape).macs)
    onednn = len(split) * augment.views > ordinary
    embed = _compile_embed(network, augment, encode, mesh, views, fast_cpu, onednn, fully)
    waiting = None
    for i, images in enumerate(split.images_at(padded, count, parallel.process_share())):
        batch = padded[i * count : (i + 1) * count]
        rows = _rows(embed, variables, images, batch, augment.views, views, mesh)
        # Rows are fetched while the devices compute the next batch.
        if waiting:
            _store(waiting, store)
        waiting = batch, rows
        console.progress("teacher", [f"caching all views: {i * count / len(padded):.0%}"])
        if stop():
            _store(waiting, store)
            raise interrupts.error(
                interrupts.received(),
                " while caching the teacher's embeddings; run the same command again to continue",
            )
    _store(waiting, store)


def _rows(
    embed: Callable,
    variables: Any,
    images: np.ndarray,
    index: np.ndarray,
    count: int,
    at_once: int,
    mesh: jax.sharding.Mesh,
) -> list[tuple[int, jax.Array]]:
    """Returns (first view, rows [b, at_once, width] on the devices) of each part of the views."""
    local_index = parallel.local_share(index).astype(np.int32)
    # The host has computed all views if images have an axis of views.
    by_host = images.ndim == 5
    batch = {"index": local_index} | ({} if by_host else {"image": images})
    placed = parallel.put_batch(mesh, batch)
    rows = []
    for start in range(0, count, at_once):
        # The last part may overlap the previous part.
        first = min(start, count - at_once)
        if by_host:
            part = np.ascontiguousarray(images[:, first : first + at_once])
            placed |= parallel.put_batch(mesh, {"image": part})
        rows.append((first, embed(variables, placed["image"], placed["index"], np.int32(first))))
    return rows


def _store(
    waiting: tuple[np.ndarray, list[tuple[int, jax.Array]]],
    store: Callable[[np.ndarray, np.ndarray], None],
) -> None:
    """Fetches and stores the rows of this process's devices."""
    index, device_rows = waiting
    shards = [array.addressable_shards for _, array in device_rows]
    for parts in zip(*shards, strict=True):
        firsts = [first for first, _ in device_rows]
        host_rows = list(zip(firsts, [np.asarray(part.data) for part in parts], strict=True))
        last, final = host_rows[-1]
        count, at_once, width = final.shape
        rows = np.empty((count, last + at_once, width), final.dtype)
        for first, part in host_rows:
            rows[:, first : first + at_once] = part
        store(index[parts[0].index[0]], rows)


def _compile_embed(
    network: networks.Network,
    augment: Augment,
    encode: Callable[[networks.Outputs], jax.Array],
    mesh: jax.sharding.Mesh,
    count: int,
    fast_cpu: bool,
    onednn: bool,
    fully: bool,
) -> Callable:
    """Compiles (variables, images, index [b], first) -> rows [b, count, width] of `count` views.

    Images are [b, H, W, channels], or [b, count, H, W, channels] if the host computes the views.
    """
    show, sharded = augment.show_teacher or augment.show, parallel.weight_axes(mesh, fully=fully)
    network = parallel.gathered(mesh, network, fully=fully)

    def embed(variables, images, index, first):
        images = images if images.ndim == 5 else jnp.repeat(images[:, None], count, axis=1)
        view = jnp.tile(first + jnp.arange(count), len(index))
        images = images.reshape(-1, *images.shape[2:])
        views = show(view, jnp.repeat(index, count), images)
        rows = encode(network.apply(variables, views, train=False))
        return rows.reshape(len(index), count, -1)

    if sharded:
        return compiling.jit_for_mesh(
            embed, mesh, fast_cpu=fast_cpu, onednn=onednn, out_shardings=parallel.split(mesh)
        )
    split, replicated = parallel.split(mesh).spec, PartitionSpec()
    specs = (replicated, split, split, replicated)
    mapped = jax.shard_map(embed, mesh=mesh, in_specs=specs, out_specs=split)
    return compiling.jit_for_mesh(mapped, mesh, fast_cpu=fast_cpu, onednn=onednn)
