import os
import signal
import sys
import textwrap
import threading
import time

import pytest

from experiments.study import slurm
from rrd_jax import errors

pytest.importorskip("submitit")


def _task(text):
    return slurm.Task([sys.executable, "-c", textwrap.dedent(text)])


def test_a_task_fails_if_its_worker_fails():
    _task("")()
    with pytest.raises(RuntimeError, match="exit code 3"):
        _task("raise SystemExit(3)")()


def test_a_killed_worker_of_a_task_is_restarted(tmp_path):
    _task(
        f"""
        import os, pathlib
        path = pathlib.Path({str(tmp_path / "died")!r})
        if not path.exists():
            path.touch()
            os.kill(os.getpid(), 9)
        """
    )()
    assert (tmp_path / "died").exists()


def test_the_worker_of_a_preempted_task_saves_its_state_first(tmp_path):
    """submitit's signal interrupts the task while it waits for the worker."""
    task = _task(
        f"""
        import pathlib, signal, sys, time
        def save(number, frame):
            time.sleep(0.3)
            pathlib.Path({str(tmp_path / "saved")!r}).touch()
            sys.exit(75)
        signal.signal(signal.SIGTERM, save)
        pathlib.Path({str(tmp_path / "ready")!r}).touch()
        time.sleep(100)
        """
    )

    class PreemptionError(Exception):
        pass

    def checkpoint(number, frame):
        submission = task.checkpoint()
        assert submission.function._command == task._command
        assert (tmp_path / "saved").exists()
        raise PreemptionError

    def preempt():
        while not (tmp_path / "ready").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGUSR2)

    handler = signal.signal(signal.SIGUSR2, checkpoint)
    try:
        threading.Thread(target=preempt).start()
        with pytest.raises(PreemptionError):
            task()
    finally:
        signal.signal(signal.SIGUSR2, handler)


def test_a_machine_without_slurm_gets_an_error_with_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.UnavailableError, match="use --launch=local"):
        slurm.submit(tmp_path, {"runs": {"one": ["true"]}}, slurm.Options())
