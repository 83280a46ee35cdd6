"""Signals that reach a command or a call of the Python API."""

import contextlib
import gc
import signal
import subprocess
import sys
import threading
import weakref

import pytest

import rrd_jax
from rrd_jax import errors
from rrd_jax.library.quiet import quietly
from rrd_jax.terminal import interrupts

_RECORD, _RAISE = interrupts.Mode.RECORD, interrupts.Mode.RAISE


class _Cycle:
    """An object that only the garbage collector can free."""

    def __init__(self):
        self.self = self


@pytest.mark.parametrize("mode", [_RECORD, _RAISE])
def test_a_signal_during_a_callback_of_the_garbage_collector_is_not_lost(mode, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", lambda details: None)
    with pytest.raises(KeyboardInterrupt):
        interrupts.handled(mode)(_interrupt_the_garbage_collector)()


def _interrupt_the_garbage_collector():
    cycle = _Cycle()
    weakref.finalize(cycle, signal.raise_signal, signal.SIGINT)
    del cycle
    gc.collect()
    assert interrupts.received() == signal.SIGINT
    interrupts.check()
    pytest.fail("the signal was lost")


def test_the_first_ctrl_c_is_recorded_and_the_second_interrupts():
    reached = []

    @interrupts.handled(_RECORD)
    def work():
        for part in range(3):
            signal.raise_signal(signal.SIGINT)
            reached.append(part)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == [0]
    interrupts.check()


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (errors.InputError("a child process has ended"), KeyboardInterrupt),
        (errors.DiskError("the state cannot be saved"), errors.DiskError),
    ],
)
def test_an_error_after_a_signal_is_a_consequence_of_the_signal(failure, expected):
    @interrupts.handled(_RECORD)
    def work():
        signal.raise_signal(signal.SIGINT)
        raise failure

    with pytest.raises(expected):
        work()


def test_a_call_of_the_python_api_ends_after_its_current_part_and_restores_the_handler():
    before = signal.getsignal(signal.SIGINT)
    assert before is signal.default_int_handler
    parts = []

    @quietly
    def work():
        for part in range(3):
            interrupts.check()
            parts.append(part)
            signal.raise_signal(signal.SIGINT)
            parts.append(part)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert parts == [0, 0]
    assert signal.getsignal(signal.SIGINT) is before


def test_handlers_of_the_user_are_kept():
    numbers = []
    before = signal.signal(signal.SIGINT, lambda number, frame: numbers.append(number))
    try:
        quietly(signal.raise_signal)(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert numbers == [signal.SIGINT]


def test_the_python_api_works_in_other_threads():
    outcomes = []

    def work():
        with contextlib.suppress(errors.InputError):
            rrd_jax.load("nothing")
        outcomes.append("refused")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert outcomes == ["refused"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGHUP, 75)]
)
def test_a_signal_outside_a_job_ends_a_command(number, code):
    program = (
        f"import signal; signal.signal({int(number)}, signal.SIG_DFL);"
        " from rrd_jax.terminal import interrupts; interrupts.install();"
        f" signal.raise_signal({int(number)}); print('lost')"
    )
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (outcome.returncode, outcome.stdout) == (code, "")
    assert outcome.stderr.startswith("error: stopped by ")
