"""Batches of examples that are loaded ahead, by threads or by worker processes, with Grain.

Whoever takes batches closes their iterator: that ends the threads or processes behind it.
"""

import contextlib
import functools
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rrd_jax import deferred

HostBatch = dict[str, np.ndarray]
Load = Callable[[int], HostBatch]
grain = deferred.Library("grain")


def batches(
    load: Load, start: int, stop: int, size: int, *, workers: int = 0, threads: int = 0
) -> Iterator[HostBatch]:
    """Batches of load(start), ..., load(stop - 1), in this order whoever loads them.

    Args:
      load: position -> arrays of one example.
      start: the first position.
      stop: the position after the last; (stop - start) is a multiple of `size`.
      size: examples a batch.
      workers: processes that load; 0 for threads of this one.
      threads: that load where there are no workers; 0 for two a core.
    """

    def load_some(first: int, count: int) -> HostBatch:
        examples = [load(position) for position in range(int(first), int(first) + count)]
        return {name: np.stack([example[name] for example in examples]) for name in examples[0]}

    if workers:
        # Whole batches to a worker: with parts, batches would depend on their number.
        load_batch = functools.partial(load_some, count=size)
        return _by_workers(load_batch, start, stop, size, workers)
    return _by_threads(load_some, start, stop, size, threads or min(16, 2 * _cores()))


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _by_threads(
    load_some: Callable, start: int, stop: int, size: int, threads: int
) -> Iterator[HostBatch]:
    """Batches of load_some(first, count), a few images at once to a thread."""
    count = next(n for n in range(8, 0, -1) if size % n == 0)
    # Not whole batches: those read ahead would fill gigabytes.
    ahead = max(size // count, 2 * threads)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    firsts = grain.MapDataset.range(start, stop, count)
    parts = firsts.map(functools.partial(load_some, count=count)).to_iter_dataset(options)
    whole = parts.batch(size // count, batch_fn=_concatenate)
    whole = grain.experimental.ThreadPrefetchIterDataset(whole, prefetch_buffer_size=2)
    with contextlib.closing(iter(whole)) as stream:
        yield from stream


def _concatenate(parts: Sequence[HostBatch]) -> HostBatch:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _by_workers(
    load_batch: Load, start: int, stop: int, size: int, workers: int
) -> Iterator[HostBatch]:
    """Batches of load_batch(first), each loaded by one process."""
    options = grain.multiprocessing.MultiprocessingOptions(
        num_workers=workers, per_worker_buffer_size=2
    )
    no_threads = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    firsts = grain.MapDataset.range(start, stop, size).map(load_batch)
    stream = iter(firsts.to_iter_dataset(no_threads).mp_prefetch(options, _start_worker))
    try:
        for batch in stream:
            # A copy: the shared memory would be kept by arrays on the device, and what holds them.
            yield {name: np.array(value) for name, value in batch.items()}
    finally:
        stream.close()
        stream = batch = None
        gc.collect()  # Grain's last batches, and its semaphores, are in cycles


def _start_worker(index: int, count: int) -> None:
    """Makes a process that decodes end with its parent, and not before."""
    del index, count
    # Ctrl-C and schedulers signal whole groups of processes, but the parent is to save its state.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)  # a parent that was killed has closed nothing
