"""Signals that reach a training command at any moment of its start."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests import launch

_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGHUP: 75}


def _start(folder):
    command = [sys.executable, "-m", "rrd_jax.main"]
    command += ["--config=configs/digits.py:resnet8-resnet8,smoke,rrd+kd", f"--workdir={folder}"]
    return subprocess.Popen(
        [*command, "--config.train.epochs=400", "--config.teacher.epochs=2"],
        cwd=launch.CONFIGS.parent,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Tests may run with ignored signals, for example under nohup.
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in _CODES],
    )


def _check_stop(folder, number, seconds):
    with _start(folder) as process:
        time.sleep(seconds)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    assert process.returncode == _CODES[number], error
    lines = error.strip().splitlines()
    assert lines[-1].startswith("error: stopped"), error
    assert not any("Traceback" in line or "Exception ignored" in line for line in lines), error


@pytest.mark.parametrize("number", _CODES)
def test_a_signal_during_the_imports_ends_the_command(tmp_path, number):
    _check_stop(tmp_path, number, seconds=0.3)


@pytest.mark.long
@pytest.mark.parametrize("moment", range(0, 12, 2))
def test_a_signal_at_any_moment_of_the_start_ends_the_command(tmp_path, moment):
    number = list(_CODES)[moment % 3]
    _check_stop(tmp_path, number, seconds=0.4 + 0.45 * moment)
