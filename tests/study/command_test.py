"""Studies give the same results for all ways of execution, and train each run once."""

import contextlib
import os
import pathlib
import signal
import subprocess
import time

import pytest

from tests import slurm
from tests.study import small

_CACHED = "teacher cache: all views computed"
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("study")]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return small.write(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def alone(study, tmp_path_factory):
    """The folder of the study, executed by one worker without interruption."""
    folder = tmp_path_factory.mktemp("alone")
    output = _finish(_start(small.command(study, folder)))
    assert "2 of 2" not in output
    assert "4 of 4" in output
    return folder


def _start(command, **options):
    return subprocess.Popen(
        command,
        cwd=small.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def _finish(process, code=0):
    output, _ = process.communicate(timeout=900)
    assert process.returncode == code, output
    return output


def _worker_output(workdir):
    """Returns the output of all workers."""
    return "".join(path.read_text() for path in (workdir / "logs").iterdir())


def _wait(condition, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def _children(process):
    path = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(number) for number in path.read_text().split()]


def _is_alive(number):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _is_in_the_middle(workdir, name):
    """Returns True if a run of this kind has finished some of its epochs."""
    matches = [folder for n, folder in small.folders(workdir).items() if name in n]
    return any(0 < small.last_step(folder) < 12 for folder in matches)


def test_a_study_starts_each_run_and_teacher_once(alone):
    assert sorted(small.starts(alone).values()) == [1] * 5
    assert _worker_output(alone).count(_CACHED) == 1


def test_two_concurrent_commands_give_the_results_of_one_command(study, alone, tmp_path):
    commands = [_start(small.command(study, tmp_path)) for _ in range(2)]
    for process in commands:
        assert "Which method is best?" in _finish(process)
    assert small.ends(tmp_path) == small.ends(alone)
    assert sorted(small.starts(tmp_path).values()) == [1] * 5
    assert _worker_output(tmp_path).count(_CACHED) == 1


def test_a_study_that_is_killed_twice_resumes_to_the_same_results(study, alone, tmp_path):
    command = small.command(study, tmp_path, "--jobs=2")
    finished = {}
    for name in ("teacher", "rrd"):
        process = _start(command)
        _wait(lambda name=name: _is_in_the_middle(tmp_path, name))
        workers = _children(process)
        assert workers
        # The first kill ends all processes at once. The second ends the command, whose workers then
        # end too.
        if name == "teacher":
            for number in (process.pid, *workers):
                os.kill(number, signal.SIGKILL)
        else:
            process.kill()
        process.communicate()
        _wait(lambda workers=workers: not any(map(_is_alive, workers)))
        finished |= {
            path: (path / "config.json").read_bytes()
            for path in small.folders(tmp_path).values()
            if (path / "results.json").exists()
        }
    output = _finish(_start(command))
    assert "4 of 4" in output
    assert small.ends(tmp_path) == small.ends(alone)
    # Finished runs are not started again.
    for path, text in finished.items():
        assert (path / "config.json").read_bytes() == text
    # Each kill interrupts two workers. The first kill also interrupts a teacher that is trained for
    # a run.
    assert 5 < sum(small.starts(tmp_path).values()) <= 5 + 3 + 2


def test_a_stopped_study_saves_its_runs_first(study, alone, tmp_path):
    process = _start(small.command(study, tmp_path))
    _wait(lambda: _is_in_the_middle(tmp_path, "ce"))
    (worker,) = _children(process)
    process.send_signal(signal.SIGTERM)
    output = _finish(process, 75)
    assert "run the same command again" in output
    assert not _is_alive(worker)
    _finish(_start(small.command(study, tmp_path)))
    assert small.ends(tmp_path) == small.ends(alone)


def test_a_finished_study_starts_no_runs_and_its_runs_are_ordinary_workdirs(study, alone, tmp_path):
    moved = tmp_path / "moved"
    alone.rename(moved)
    try:
        (run,) = [
            f for name, f in small.folders(moved).items() if "rrd" in name and "seed1" in name
        ]
        config = "configs/digits.py:smoke,tests.tiny:NETWORK-tests.tiny:NETWORK,rrd"
        program = [small.command(study, moved)[0], "-m", "rrd_jax.main", f"--config={config}"]
        fields = ["--config.train.epochs=6", "--config.teacher.epochs=4", "--config.seed=1"]
        command = [*program, *fields, f"--workdir={run}", "--mode=eval"]
        output = _finish(_start(command))
        assert "teacher" in output
        top1 = small.ends(moved)[f"runs/{run.name}"][1][-1]["test/top1"]
        assert f"{top1:.2f}" in output
        before = {path: path.read_bytes() for path in moved.rglob("config.json")}
        output = _finish(_start(small.command(study, moved)))
        assert "Which method" in output
        assert "of 4]" not in output
        assert {path: path.read_bytes() for path in moved.rglob("config.json")} == before
    finally:
        moved.rename(alone)


@pytest.mark.skipif(bool(slurm.unavailable_reason()), reason=slurm.unavailable_reason())
def test_slurm_with_requeues_gives_the_same_results(study, alone, tmp_path):
    workdir = tmp_path / "study"
    command = small.command(study, workdir, "--launch=slurm", "--tasks=2", "--cpus=1")
    with slurm.running(tasks=2) as environment:
        env = os.environ | environment
        process = _start(command, env=env)
        _wait(lambda: _is_in_the_middle(workdir, "teacher"))
        (task,) = _running_tasks(env)
        # A preemption requeues a task in the same way.
        _call(["scontrol", "requeue", task], env)
        _start_now(task, env)
        _wait(lambda: _is_in_the_middle(workdir, "ce"))
        task = _running_tasks(env)[0]
        # Slurm sends this signal before the time limit. scancel retries if the task has ended.
        with contextlib.suppress(subprocess.SubprocessError):
            _call(["scancel", "--signal=USR2", task], env, timeout=3)
        _start_now(task, env)
        output = _finish(process)
        assert not _call(["squeue", "--noheader"], env)
    assert "submitted as jobs" in output
    assert "4 of 4" in output
    assert small.ends(workdir) == small.ends(alone)
    assert 5 < sum(small.starts(workdir).values()) <= 5 + 2


def _running_tasks(env):
    """Returns the running tasks."""
    return _call(
        ["squeue", "--array", "--noheader", "--states=RUNNING", "--format=%i"], env
    ).split()


def _start_now(task, env):
    """Starts a requeued task at once; Slurm would wait for two minutes."""
    state = ["squeue", "--array", "--noheader", "--format=%T", f"--jobs={task}"]
    _wait(lambda: "PENDING" in _call(state, env))
    _call(["scontrol", "update", f"JobId={task}", "StartTime=now"], env)


def _call(command, env, timeout=60):
    process = subprocess.run(
        command, env=env, check=True, capture_output=True, text=True, timeout=timeout
    )
    return process.stdout
