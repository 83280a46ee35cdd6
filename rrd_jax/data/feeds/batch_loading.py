"""Loads batches of examples ahead, in threads or worker processes, with Grain.

Callers must close the iterator of batches, which stops the threads or processes.
"""

import contextlib
import functools
import gc
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rrd_jax import deferred

HostBatch = dict[str, np.ndarray]
Load = Callable[[int], HostBatch]
grain = deferred.Library("grain")


def batches(
    load: Load, start: int, stop: int, size: int, *, workers: int = 0, threads: int = 0
) -> Iterator[HostBatch]:
    """Yields batches of load(start), ..., load(stop - 1) in a deterministic order.

    Args:
      load: returns the arrays of one example by position.
      start: first position.
      stop: end of the positions (exclusive); stop - start is a multiple of `size`.
      size: examples per batch.
      workers: number of worker processes; 0 for threads of this process.
      threads: number of threads without workers; 0 for two per core.
    """

    def load_range(first: int, count: int) -> HostBatch:
        examples = [load(position) for position in range(int(first), int(first) + count)]
        return {name: np.stack([example[name] for example in examples]) for name in examples[0]}

    if workers:
        # Each worker loads whole batches, so batches do not depend on the number of workers.
        load_batch = functools.partial(load_range, count=size)
        return _by_workers(load_batch, start, stop, size, workers)
    return _by_threads(load_range, start, stop, size, threads or min(16, 2 * _num_cores()))


def _num_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _by_threads(
    load_range: Callable, start: int, stop: int, size: int, threads: int
) -> Iterator[HostBatch]:
    """Yields batches of load_range(first, count), where each thread loads a few images at once."""
    count = next(n for n in range(8, 0, -1) if size % n == 0)
    # Threads load parts of batches: whole batches that are read ahead would need gigabytes.
    ahead = max(size // count, 2 * threads)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    firsts = grain.MapDataset.range(start, stop, count)
    parts = firsts.map(functools.partial(load_range, count=count)).to_iter_dataset(options)
    joined = parts.batch(size // count, batch_fn=_concatenate)
    joined = grain.experimental.ThreadPrefetchIterDataset(joined, prefetch_buffer_size=2)
    with contextlib.closing(iter(joined)) as stream:
        yield from stream


def _concatenate(parts: Sequence[HostBatch]) -> HostBatch:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _by_workers(
    load_batch: Load, start: int, stop: int, size: int, workers: int
) -> Iterator[HostBatch]:
    """Yields batches of load_batch(first), each loaded by one process."""
    options = grain.multiprocessing.MultiprocessingOptions(
        num_workers=workers, per_worker_buffer_size=2
    )
    no_threads = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    firsts = grain.MapDataset.range(start, stop, size).map(load_batch)
    stream = iter(firsts.to_iter_dataset(no_threads).mp_prefetch(options, _start_worker))
    try:
        for batch in stream:
            # Without the copy, arrays on the device would keep the shared memory alive.
            yield {name: np.array(value) for name, value in batch.items()}
    except Exception as error:
        _release_frames(error)
        raise
    finally:
        stream.close()
        stream = batch = None
        # Grain's last batches and its semaphores are in reference cycles.
        gc.collect()


def _release_frames(error: BaseException) -> None:
    """Deletes the local variables of finished functions below an exception.

    The functions of Grain hold the last batch, and thereby its shared memory, as long as the
    exception exists. Grain removes these functions from the traceback.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for caller, _ in traceback.walk_stack(frame):
            # The function has not finished.
            with contextlib.suppress(RuntimeError):
                caller.clear()


def _start_worker(index: int, count: int) -> None:
    """Makes a worker process end together with its parent."""
    del index, count
    # Ctrl-C and schedulers signal whole process groups, but the parent must save its state first.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    # A killed parent has not closed the iterator.
    os._exit(1)
