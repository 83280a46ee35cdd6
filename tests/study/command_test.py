"""A study comes to the same numbers however it is run, and trains nothing twice."""

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
    """The folder of the study, made by one worker in one go."""
    folder = tmp_path_factory.mktemp("alone")
    said = _finish(_start(small.command(study, folder)))
    assert "2 of 2" not in said
    assert "4 of 4" in said
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
    said, _ = process.communicate(timeout=900)
    assert process.returncode == code, said
    return said


def _said(workdir):
    """By all workers."""
    return "".join(path.read_text() for path in (workdir / "logs").iterdir())


def _wait(holds, seconds=600):
    end = time.monotonic() + seconds
    while not holds():
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
    """Whether a run of that kind has made some of its epochs."""
    found = [folder for n, folder in small.folders(workdir).items() if name in n]
    return any(0 < small.last_step(folder) < 12 for folder in found)


def test_a_study_starts_each_run_and_teacher_once(alone):
    assert sorted(small.starts(alone).values()) == [1] * 5
    assert _said(alone).count(_CACHED) == 1


def test_two_commands_side_by_side_come_to_the_numbers_of_one(study, alone, tmp_path):
    commands = [_start(small.command(study, tmp_path)) for _ in range(2)]
    for process in commands:
        assert "Which method is best?" in _finish(process)
    assert small.ends(tmp_path) == small.ends(alone)
    assert sorted(small.starts(tmp_path).values()) == [1] * 5
    assert _said(tmp_path).count(_CACHED) == 1


def test_a_study_that_is_killed_twice_goes_on_to_the_same_numbers(study, alone, tmp_path):
    command = small.command(study, tmp_path, "--jobs=2")
    ended = {}
    for name in ("teacher", "rrd"):
        process = _start(command)
        _wait(lambda name=name: _is_in_the_middle(tmp_path, name))
        workers = _children(process)
        assert workers
        if name == "teacher":  # all at once
            for number in (process.pid, *workers):
                os.kill(number, signal.SIGKILL)
        else:  # workers end with the command
            process.kill()
        process.communicate()
        _wait(lambda workers=workers: not any(map(_is_alive, workers)))
        ended |= {
            path: (path / "config.json").read_bytes()
            for path in small.folders(tmp_path).values()
            if (path / "results.json").exists()
        }
    said = _finish(_start(command))
    assert "4 of 4" in said
    assert small.ends(tmp_path) == small.ends(alone)
    for path, text in ended.items():  # it was not touched again
        assert (path / "config.json").read_bytes() == text
    # A kill meets two workers. The first one also meets a teacher that is trained for a run.
    assert 5 < sum(small.starts(tmp_path).values()) <= 5 + 3 + 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_study_that_is_stopped_saves_its_runs_first(study, alone, tmp_path, number, code):
    process = _start(small.command(study, tmp_path))
    _wait(lambda: _is_in_the_middle(tmp_path, "ce"))
    (worker,) = _children(process)
    process.send_signal(number)
    said = _finish(process, code)
    assert "the same command goes on" in said
    assert not _is_alive(worker)
    _finish(_start(small.command(study, tmp_path)))
    assert small.ends(tmp_path) == small.ends(alone)


def test_a_finished_study_starts_nothing_and_its_runs_are_ordinary_workdirs(study, alone, tmp_path):
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
        said = _finish(_start(command))
        assert "teacher" in said
        top1 = small.ends(moved)[f"runs/{run.name}"][1][-1]["test/top1"]
        assert f"{top1:.2f}" in said
        before = {path: path.read_bytes() for path in moved.rglob("config.json")}
        said = _finish(_start(small.command(study, moved)))
        assert "Which method" in said
        assert "of 4]" not in said
        assert {path: path.read_bytes() for path in moved.rglob("config.json")} == before
    finally:
        moved.rename(alone)


@pytest.mark.skipif(bool(slurm.unavailable_reason()), reason=slurm.unavailable_reason())
def test_slurm_comes_to_the_same_numbers_through_requeues(study, alone, tmp_path):
    workdir = tmp_path / "study"
    command = small.command(study, workdir, "--launch=slurm", "--tasks=2", "--cpus=1")
    with slurm.running(tasks=2) as environment:
        env = os.environ | environment
        process = _start(command, env=env)
        _wait(lambda: _is_in_the_middle(workdir, "teacher"))
        (task,) = _running(env)
        _tell(["scontrol", "requeue", task], env)  # as a preemption does
        _hurry(task, env)
        _wait(lambda: _is_in_the_middle(workdir, "ce"))
        task = _running(env)[0]
        # As Slurm does a while before the time limit. scancel tries again where the task is gone.
        with contextlib.suppress(subprocess.SubprocessError):
            _tell(["scancel", "--signal=USR2", task], env, timeout=3)
        _hurry(task, env)
        said = _finish(process)
        assert not _tell(["squeue", "--noheader"], env)
    assert "are jobs" in said
    assert "4 of 4" in said
    assert small.ends(workdir) == small.ends(alone)
    assert 5 < sum(small.starts(workdir).values()) <= 5 + 2


def _running(env):
    """The tasks that run."""
    return _tell(
        ["squeue", "--array", "--noheader", "--states=RUNNING", "--format=%i"], env
    ).split()


def _hurry(task, env):
    """Slurm would wait for two minutes with what it queued again."""
    state = ["squeue", "--array", "--noheader", "--format=%T", f"--jobs={task}"]
    _wait(lambda: "PENDING" in _tell(state, env))
    _tell(["scontrol", "update", f"JobId={task}", "StartTime=now"], env)


def _tell(command, env, timeout=60):
    options = {"capture_output": True, "text": True, "timeout": timeout}
    return subprocess.run(command, env=env, check=True, **options).stdout
