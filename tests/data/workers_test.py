"""Decoding worker processes, which must end with their stream and with the run."""

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

from rrd_jax import parallel
from rrd_jax.data.feeds import feed
from rrd_jax.evaluation import predictions

pytestmark = pytest.mark.long

# The names of shared memory start with this prefix, so that other programs are not counted.
_PREFIX = f"rj{os.getpid() % 10_000}_"
# Python executes this module at its start, in all processes that the tests start.
_SITE = f"""
from multiprocessing import process, shared_memory
shared_memory._SHM_NAME_PREFIX = "/{_PREFIX}"
process.current_process()._config["semprefix"] = "/{_PREFIX}"
"""


def _streamed(workers):
    image = np.zeros((20, 20, 3), np.uint8)
    examples = [{"image": image, "label": i} for i in range(40)]
    return feed.Streamed(examples, size=64, channels=3, resize=66, workers=workers)


def _shared_memory():
    return set(pathlib.Path("/dev/shm").glob(f"*{_PREFIX}*"))


def _prefetch_threads():
    return {thread for thread in threading.enumerate() if "prefetch" in thread.name}


def _wait_for(condition, seconds=300.0):
    """Waits until the condition holds; the long limit only ends tests that hang."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def no_leftovers(tmp_path, monkeypatch):
    """A check after the test that no new thread, worker process or shared memory remains."""
    (tmp_path / "sitecustomize.py").write_text(_SITE)
    monkeypatch.syspath_prepend(tmp_path)
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    settings = vars(multiprocessing.current_process())["_config"]
    monkeypatch.setitem(settings, "semprefix", f"/{_PREFIX}")
    before = _prefetch_threads()
    yield
    assert not multiprocessing.active_children()
    # A thread of Grain frees the shared memory asynchronously.
    _wait_for(lambda: not _shared_memory())
    _wait_for(lambda: not _prefetch_threads() - before)


@pytest.mark.usefixtures("no_leftovers")
@pytest.mark.parametrize(("workers", "steps"), [(0, 1), (2, 0)])
def test_a_closed_stream_leaves_no_processes(workers, steps):
    batches = _streamed(workers).train_batches(8, seed=0, start=0, stop=6)
    for _ in range(steps):
        next(batches)
    batches.close()


@pytest.mark.usefixtures("no_leftovers")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_failed_evaluation_leaves_no_processes(workers):
    def predict(variables, images, labels):
        raise ZeroDivisionError

    # The traceback keeps the frames and their local variables alive.
    with pytest.raises(ZeroDivisionError) as error:
        predictions.collect(predict, None, _streamed(workers), 8, parallel.make_mesh())
    assert not multiprocessing.active_children()
    assert error


class _Failing:
    """Examples of which the last ones cannot be read."""

    def __len__(self):
        return 40

    def __getitem__(self, i):
        if i >= 32:
            raise ZeroDivisionError
        return {"image": np.zeros((20, 20, 3), np.uint8), "label": i}


@pytest.mark.usefixtures("no_leftovers")
def test_an_error_in_a_worker_frees_the_shared_memory_of_all_workers():
    split = feed.Streamed(_Failing(), size=64, channels=3, resize=66, workers=2)
    # The traceback keeps the frames and their local variables alive.
    with pytest.raises(ZeroDivisionError) as error:
        list(split.test_batches(8))
    _wait_for(lambda: not _shared_memory(), seconds=10)
    assert error


class _Group:
    """A program with worker processes that leads a process group; its output goes to `log`."""

    def __init__(self, arguments, log):
        self.log = log
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                env=environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def wait_for(self, condition):
        """Waits until the condition holds; fails if the program ends earlier."""
        _wait_for(lambda: condition() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()

    def is_alive(self):
        """Returns True if any process of the group still runs."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, 0)
            return True
        return False

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def reader(tmp_path):
    """A program with one worker that reads batches until SIGTERM, then ten more."""
    path = tmp_path / "reader.py"
    # Grain reads its own absl flags.
    path.write_text(
        "import multiprocessing, signal\n"
        "import numpy as np\n"
        "from absl import flags\n"
        "from rrd_jax.data.feeds import feed\n"
        "if __name__ == '__main__':\n"
        "    flags.FLAGS(['reader'])\n"
        "    examples = [{'image': np.zeros((20, 20, 3), np.uint8), 'label': 0}] * 40\n"
        "    split = feed.Streamed(examples, size=64, channels=3, resize=66, workers=1)\n"
        "    stopped = []\n"
        "    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))\n"
        "    batches = split.train_batches(8, seed=0, start=0, stop=10**9)\n"
        "    next(batches)\n"
        "    print('first batch read', flush=True)\n"
        "    while not stopped:\n"
        "        next(batches)\n"
        "    for _ in range(10):\n"
        "        next(batches)\n"
        "    batches.close()\n"
        "    assert not multiprocessing.active_children()\n"
        "    print('closed', flush=True)\n"
    )
    group = _Group([path], tmp_path / "reader.log")
    yield group
    group.end()


@pytest.mark.usefixtures("no_leftovers")
def test_workers_survive_a_signal_to_the_process_group_until_the_reader_closes(reader):
    reader.wait_for(lambda: "first batch read\n" in reader.log.read_text())
    os.killpg(reader.process.pid, signal.SIGTERM)
    assert reader.process.wait() == 0, reader.log.read_text()
    _wait_for(lambda: not reader.is_alive())
    log = reader.log.read_text()
    # The resource tracker of Python may print a warning afterwards.
    assert "\nclosed\n" in log
    assert "Traceback" not in log


@pytest.mark.usefixtures("no_leftovers")
def test_the_worker_of_a_killed_reader_ends_with_it(reader):
    reader.wait_for(lambda: "first batch read\n" in reader.log.read_text())
    assert _shared_memory()
    reader.process.kill()
    reader.process.wait()
    _wait_for(lambda: not reader.is_alive())


@pytest.mark.usefixtures("no_leftovers")
def test_a_run_whose_process_group_is_terminated_saves_and_leaves_no_processes(tmp_path, data_dir):
    arguments = [
        *("-m", "rrd_jax.main", "--config=configs/digits.py:smoke,resnet8,ce"),
        *(f"--workdir={tmp_path / 'run'}", f"--config.data.dir={data_dir}"),
        *("--config.data.feed=streamed", "--config.data.workers=2", "--config.train.epochs=1000"),
        # With cached images, threads would suffice.
        "--config.data.keep=off",
    ]
    run, metrics = _Group(arguments, tmp_path / "run.log"), tmp_path / "run" / "metrics.jsonl"
    try:
        run.wait_for(lambda: metrics.exists() and metrics.stat().st_size)
        # Schedulers send SIGTERM to the whole group.
        os.killpg(run.process.pid, signal.SIGTERM)
        assert run.process.wait() == 75, run.log.read_text()
        _wait_for(lambda: not run.is_alive())
        assert "is saved in" in run.log.read_text()
        assert "leaked" not in run.log.read_text()
    finally:
        run.end()
