"""Processes that decode: they end with the stream, and with the run."""

import contextlib
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from rrd_jax import runs
from rrd_jax.data import feed

# Shared memory is counted: no other test of worker processes may run beside these.
pytestmark = pytest.mark.xdist_group("workers")
_SHARED = pathlib.Path("/dev/shm")


def _streamed(workers):
    image = np.zeros((20, 20, 3), np.uint8)
    source = [{"image": image, "label": i} for i in range(40)]
    return feed.Streamed(source, size=64, channels=3, resize=66, workers=workers)


def _shared():
    return set(_SHARED.glob("psm_*")) | set(_SHARED.glob("sem.mp-*"))


def _prefetching():
    return {thread for thread in threading.enumerate() if "prefetch" in thread.name}


def _wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def nothing_left():
    """Afterwards no thread, no worker process and no shared memory is left that was not before."""
    before, shared = _prefetching(), _shared()
    yield
    assert not multiprocessing.active_children()
    _wait_for(lambda: _shared() <= shared)  # a thread of Grain frees it
    _wait_for(lambda: not _prefetching() - before)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(("workers", "steps"), [(0, 1), (0, 6), (2, 0), (2, 1), (2, 6)])
def test_a_closed_stream_leaves_nothing(workers, steps):
    batches = _streamed(workers).train_batches(8, seed=0, start=0, stop=6)
    for _ in range(steps):
        next(batches)
    batches.close()


@pytest.mark.usefixtures("nothing_left")
def test_an_evaluation_that_fails_leaves_nothing():
    def predict(variables, images, labels):
        raise ZeroDivisionError

    from rrd_jax import parallel

    mesh = parallel.make_mesh()
    with pytest.raises(ZeroDivisionError) as kept:  # with its frames, and what these hold
        runs.evaluate(predict, None, _streamed(workers=2), 8, mesh)
    assert not multiprocessing.active_children()
    assert kept


class _Run:
    """A run with two workers, the leader of a process group."""

    def __init__(self, workdir, data_dir):
        self.log = workdir.with_suffix(".log")
        command = [
            *(sys.executable, "-m", "rrd_jax.main", "--config=configs/digits.py:smoke,resnet8,ce"),
            f"--workdir={workdir}",
            f"--config.data.dir={data_dir}",
            "--config.data.feed=streamed",
            "--config.data.workers=2",
            "--config.train.epochs=1000",
        ]
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def wait_for_an_epoch(self):
        metrics = self.log.with_suffix("") / "metrics.jsonl"
        _wait_for(lambda: metrics.exists() and metrics.stat().st_size, seconds=120)

    def alive(self):
        """Whether any process of the group is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, 0)
            return True
        return False


@pytest.fixture
def run(tmp_path, data_dir):
    run = _Run(tmp_path / "run", data_dir)
    yield run
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.process.pid, signal.SIGKILL)
    run.process.wait()


@pytest.mark.usefixtures("nothing_left")
def test_a_run_whose_whole_group_is_stopped_saves_and_leaves_nothing(run):
    run.wait_for_an_epoch()
    os.killpg(run.process.pid, signal.SIGTERM)  # as schedulers do
    assert run.process.wait(timeout=60) == 75, run.log.read_text()
    _wait_for(lambda: not run.alive())
    assert "is saved in" in run.log.read_text()
    assert "leaked" not in run.log.read_text()


@pytest.mark.usefixtures("nothing_left")
def test_a_run_that_is_killed_takes_its_workers_along(run):
    run.wait_for_an_epoch()
    run.process.kill()
    run.process.wait()
    _wait_for(lambda: not run.alive())
