import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from experiments.study import local
from rrd_jax import errors
from rrd_jax.terminal import interrupts

_ROOT = pathlib.Path(__file__).parent.parent.parent


def _python(text):
    return [sys.executable, "-c", textwrap.dedent(text)]


def _run(tmp_path, *programs):
    logs = [tmp_path / f"{i}.log" for i in range(len(programs))]
    local.run([_python(text) for text in programs], logs, lambda: None)
    return [log.read_text() for log in logs]


def _is_alive(number):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _wait(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(local, "_POLL", 0.02)


@pytest.fixture
def gpus(monkeypatch):
    """A function that simulates GPUs, CUDA_VISIBLE_DEVICES and other device files."""
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def simulate(number, visible=None, others=()):
        folder = "/proc/driver/nvidia/gpus"
        paths = {f"{folder}/*": [f"{folder}/{i}" for i in range(number)]}
        for path in others:
            paths[path] = [path]
        monkeypatch.setattr(local.glob, "glob", lambda pattern: paths.get(pattern, []))
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return simulate


def _variables(jobs, name):
    return [share.get(name) for share in local.shares(jobs)]


def test_cores_are_divided(monkeypatch, gpus):
    gpus(0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 2, 4, 5, 7})
    assert _variables(2, "RRD_JAX_CORES") == ["1,2", "4,5,7"]
    # With more workers than cores, some workers have all cores.
    assert "1,2,4,5,7" in _variables(6, "RRD_JAX_CORES")
    assert _variables(2, "CUDA_VISIBLE_DEVICES") == [None, None]


@pytest.mark.parametrize(
    ("jobs", "number", "visible", "devices", "memory"),
    [
        (2, 4, None, ["0,1", "2,3"], [None] * 2),
        (4, 2, None, ["0", "1", "0", "1"], ["0.450"] * 4),
        (3, 1, None, ["0", "0", "0"], ["0.300"] * 3),
        (2, 8, "3,GPU-5a", ["3", "GPU-5a"], [None] * 2),
        (2, 8, "", [None] * 2, [None] * 2),
        (1, 8, "2,-1,3", ["2"], [None]),
    ],
)
def test_gpus_or_their_memory_are_divided(gpus, jobs, number, visible, devices, memory):
    gpus(number, visible)
    assert _variables(jobs, "CUDA_VISIBLE_DEVICES") == devices
    assert _variables(jobs, "XLA_PYTHON_CLIENT_MEM_FRACTION") == memory


def test_a_tpu_is_refused_for_several_jobs(monkeypatch, gpus):
    gpus(0, others=["/dev/accel*"])
    assert len(local.shares(1)) == 1
    with pytest.raises(errors.InputError, match="--jobs=2: only one process can use a TPU"):
        local.shares(2)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert len(local.shares(2)) == 2


def test_a_killed_worker_is_restarted(tmp_path, capsys):
    program = f"""
        import os, pathlib
        print("{local.READY}", flush=True)
        died = pathlib.Path({str(tmp_path / "died")!r})
        died.write_text(died.read_text() + "x" if died.exists() else "x")
        if len(died.read_text()) < 6:
            os.kill(os.getpid(), 9)
        print("done")
        """
    (text,) = _run(tmp_path, program)
    assert text.count(local.READY) == 6
    assert text.endswith("done\n")
    assert capsys.readouterr().out.count("exit code -9") == 5


def test_a_worker_that_dies_during_its_start_ends_the_study(tmp_path):
    with pytest.raises(errors.InputError, match=r"killed 3 times during its start .* no memory"):
        _run(tmp_path, "import os; print('no memory', flush=True); os.kill(os.getpid(), 9)")


@pytest.mark.parametrize(
    ("code", "kind"),
    [(69, errors.UnavailableError), (74, errors.DiskError), (1, errors.InputError)],
)
def test_a_worker_with_an_error_ends_the_other_workers(tmp_path, code, kind):
    fails = f"""
        import sys, time
        print("some line\\nerror: no memory\\nraised in main.py", flush=True)
        sys.exit({code})
        """
    waits = "import time; time.sleep(100)"
    start = time.monotonic()
    message = f"exit code {code}: no memory raised in main.py .*1.log"
    with pytest.raises(kind, match=message):
        _run(tmp_path, waits, fails)
    assert time.monotonic() - start < 50


_PARENT = """
    import pathlib, sys
    from experiments.study import local
    from rrd_jax.terminal import cli

    worker = '''
    import pathlib, time
    from experiments.study import local
    from rrd_jax import errors
    from rrd_jax.terminal import cli
    def work():
        local.prepare_worker()
        try:
            pathlib.Path("{folder}/ready").touch()
            time.sleep(100)
        except errors.PreemptedError:
            pathlib.Path("{folder}/saved").touch()
    cli.guard(work)
    '''
    import textwrap
    command = [sys.executable, "-c", textwrap.dedent(worker)]
    cli.guard(lambda: local.run([command], [pathlib.Path("{folder}/log")], lambda: None))
    """


def _restore_handler(number):
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_the_command(tmp_path, number):
    command = _python(_PARENT.format(folder=tmp_path))
    with subprocess.Popen(
        command,
        cwd=_ROOT,
        stderr=subprocess.DEVNULL,
        # Tests may run with ignored signals, for example under nohup.
        preexec_fn=lambda: _restore_handler(number),
    ) as process:
        _wait((tmp_path / "ready").exists)
        path = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
        (worker,) = map(int, path.read_text().split())
        process.send_signal(number)
        process.wait()
    _wait(lambda: not _is_alive(worker))
    assert (tmp_path / "saved").exists()


def test_a_worker_whose_command_has_ended_does_not_start(tmp_path):
    program = _python("from experiments.study import local; local.prepare_worker()")
    env = os.environ | {"RRD_JAX_PARENT": "1"}
    process = subprocess.run(
        program, cwd=_ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert "PreemptedError: the process that started this worker has ended" in process.stderr


def test_a_sigterm_that_a_library_caught_stops_the_worker_before_the_next_run():
    local.check_stop()
    with pytest.raises(errors.PreemptedError, match="stopped by SIGTERM"):
        _swallow_sigterm()


@interrupts.handled(interrupts.Mode.RAISE)
def _swallow_sigterm():
    with contextlib.suppress(Exception):
        os.kill(os.getpid(), signal.SIGTERM)
    local.check_stop()
