"""Processes of a distributed job, and requests to stop a run."""

import signal
import socket

import jax
import pytest

from rrd_jax import errors, parallel
from rrd_jax.parallel import processes
from rrd_jax.terminal import interrupts


def test_a_coordinator_that_does_not_answer_is_reported(monkeypatch):
    monkeypatch.setattr(processes, "_START_TIMEOUT", 0.1)
    # The socket is bound, but does not listen.
    with socket.socket() as server:
        server.bind(("localhost", 0))
        address = f"localhost:{server.getsockname()[1]}"
        with pytest.raises(errors.InputError, match=f"does not answer at --coordinator={address}"):
            parallel.start(address, 2, 1)


def test_a_single_slurm_task_does_not_start_distributed_jax(monkeypatch):
    for name, value in {"NTASKS": "1", "JOB_ID": "7", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_STEP_NODELIST", "localhost")
    parallel.start()
    assert not jax.distributed.is_initialized()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_requests_a_stop_and_is_passed_to_the_run(number):
    # Signals that the process ignores, as after nohup, request nothing.
    before = signal.default_int_handler
    outer = signal.signal(number, before)
    # The run continues after the request.
    with pytest.raises((KeyboardInterrupt, errors.PreemptedError)):
        _request_stop(number)
    assert signal.signal(number, outer) is before


def _request_stop(number):
    with parallel.stop_requests() as stop, interrupts.postponed():
        assert not stop(1)
        signal.raise_signal(number)
        interrupts.check()
        assert stop(2) == stop(3) == number


def test_ctrl_c_is_ignored_if_the_process_ignores_it():
    # nohup ignores the signal in the same way.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with parallel.stop_requests() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop(1)
    finally:
        signal.signal(signal.SIGINT, before)
