import signal
import socket

import jax
import pytest

from rrd_jax import errors, parallel
from rrd_jax.parallel import processes


def test_nobody_at_the_coordinators_address_is_one_line(monkeypatch):
    monkeypatch.setattr(processes, "_START_TIMEOUT", 0.1)
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("localhost", 0))
        address = f"localhost:{taken.getsockname()[1]}"
        with pytest.raises(errors.InputError, match=f"does not answer at --coordinator={address}"):
            parallel.start(address, 2, 1)


def test_the_only_task_of_slurm_joins_nobody(monkeypatch):
    for name, value in {"NTASKS": "1", "JOB_ID": "7", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_STEP_NODELIST", "localhost")
    parallel.start()
    assert not jax.distributed.is_initialized()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_is_asked_to_stop_and_told_by_which_signal(number):
    before = signal.getsignal(number)
    with pytest.raises((KeyboardInterrupt, errors.PreemptedError)):  # since nobody stops
        _ask_and_go_on(number)
    assert signal.getsignal(number) is before


def _ask_and_go_on(number):
    with parallel.stop_requests() as stop:
        assert not stop(1)
        stop.can_save = True
        signal.raise_signal(number)
        assert stop(2) == stop(3) == number


def test_ctrl_c_interrupts_while_there_is_nothing_to_save():
    with parallel.stop_requests(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_second_ctrl_c_interrupts():
    stop = parallel.StopRequests(has_peers=False)
    stop.can_save = True
    stop.handle(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        stop.handle(signal.SIGINT, None)


def test_ctrl_c_is_for_others_where_it_is_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup does
    try:
        with parallel.stop_requests() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop(1)
    finally:
        signal.signal(signal.SIGINT, before)
