"""A study's runs as job arrays of Slurm, by submitit: first the teachers, then the runs.

Each run is a task of an array. One that is preempted, or comes to its time limit, saves its state
and is queued again, and goes on from there.
"""

import dataclasses
import pathlib
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.study import local
from rrd_jax import errors
from rrd_jax.run_folder import atomic_write

_MOST = 1000  # tasks of an array: what Slurm takes unless MaxArraySize says otherwise
_POLL = 5.0  # seconds between two looks at the queue
_TASKS = "tasks.json"  # what Slurm's tasks are, for the next start
_KILL = 90  # seconds for Slurm to kill a task whose worker it has told to stop


@dataclasses.dataclass(frozen=True)
class Options:
    """Of the arrays, as `sbatch` has them; "" or 0 for the cluster's own.

    Attributes:
      partition: of the cluster.
      minutes: of a task; 0 for a day.
      gpus: of a task.
      cpus: of a task.
      memory: of a task, such as "32G".
      most: tasks that run at once.
      more: options that are not named here, such as {"account": "lab"}.
    """

    partition: str = ""
    minutes: int = 0
    gpus: int = 0
    cpus: int = 0
    memory: str = ""
    most: int = 64
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Task:
    """A worker for one run or teacher, as submitit pickles it.

    Args:
      command: of the worker.
    """

    def __init__(self, command: Sequence[str]):
        self._command = list(command)
        self._process: subprocess.Popen | None = None
        self._code: int | None = 0  # None while the worker runs

    def __call__(self) -> None:
        """Runs the worker until it has ended; after a kill, another in its place.

        Raises:
          RuntimeError: the worker cannot work; what it says is in the log of the task.
        """
        while local.was_killed(code := self._work()):
            # Slurm ends all processes of a task before it is queued again: this one is ended then.
            time.sleep(_KILL if code == 75 else 1)
        if code:
            raise RuntimeError(f"the worker stopped with exit code {code}")

    def checkpoint(self) -> Any:
        """Called by submitit before the task is taken away: the state is saved, the task queued."""
        import submitit

        if self._code is None:
            self._process.send_signal(signal.SIGTERM)
        while self._code is None:
            time.sleep(0.1)
        return submitit.helpers.DelayedSubmission(Task(self._command))

    def _work(self) -> int:
        """The exit code of a worker.

        A thread waits for it: submitit's signals come to this one, in the middle of a wait, and
        `checkpoint` waits too.
        """
        self._process = subprocess.Popen(self._command)
        self._code = None
        threading.Thread(target=self._wait, daemon=True).start()
        while self._code is None:
            time.sleep(0.1)
        return self._code

    def _wait(self) -> None:
        self._code = self._process.wait()


def submit(
    folder: pathlib.Path, stages: Mapping[str, Mapping[str, Sequence[str]]], options: Options
) -> list[Any]:
    """Hands tasks to Slurm, but for those that it has of an earlier start; returns all, as jobs.

    Args:
      folder: of the study, whose slurm/ receives what the tasks say.
      stages: commands of workers by the name of what they make, by that of their array. An array
        starts when all tasks of the one before have ended, well or not.
      options: of the arrays.

    Raises:
      UnavailableError: submitit or Slurm is not there.
      InputError: Slurm refuses the arrays.
    """
    submitit = _import()
    path, queued = folder / "slurm" / _TASKS, _queued() or set()
    there = {number: task for number, task in _read(path).items() if number in queued}
    jobs: list[Any] = []
    before: list[str] = []
    for stage, commands in stages.items():
        home = folder / "slurm" / stage
        numbers = [number for number, task in there.items() if task[0] == stage]
        old = [submitit.SlurmJob(home, number) for number in numbers]
        made = {there[number][1] for number in numbers}
        missing = [name for name in commands if name not in made]
        tasks = [Task(commands[name]) for name in missing]
        new = _submit(_executor(home, stage, options, before), tasks)
        there |= {job.job_id: [stage, name] for job, name in zip(new, missing, strict=True)}
        if new:
            atomic_write.write_json(path, there)
        jobs += old + new
        # The number of an array stands for all its tasks.
        before = [*numbers, *sorted({job.job_id.split("_")[0] for job in new})] or before
    return jobs


def _read(path: pathlib.Path) -> dict[str, list[str]]:
    """What Slurm's tasks are: their stage and name."""
    try:
        return dict(errors.read_json(path))
    except (OSError, ValueError, TypeError):
        return {}


def _executor(folder: pathlib.Path, stage: str, options: Options, before: Sequence[str]) -> Any:
    executor = _import().SlurmExecutor(folder, max_num_timeout=1000)
    given = {
        "requeue": True,
        "partition": options.partition,
        "gpus_per_node": options.gpus,
        "cpus_per_task": options.cpus,
        "mem": options.memory,
        "dependency": f"afterany:{':'.join(before)}" if before else "",
        **options.more,
    }
    executor.update_parameters(
        job_name=f"rrd_jax-{stage}",
        time=options.minutes or 24 * 60,
        array_parallelism=options.most,
        stderr_to_stdout=True,
        additional_parameters={name: value for name, value in given.items() if value},
    )
    return executor


def _submit(executor: Any, tasks: Sequence[Task]) -> list[Any]:
    jobs: list[Any] = []
    try:
        for first in range(0, len(tasks), _MOST):
            jobs += executor.submit_array(tasks[first : first + _MOST])
    except (_import().core.utils.FailedJobError, OSError) as error:
        text = " ".join(str(error).split())
        raise errors.InputError(f"Slurm does not take the jobs: {text[-400:]}") from error
    return jobs


def _import() -> Any:
    """Submitit, where it and Slurm are there."""
    try:
        import submitit
    except ImportError as error:
        raise errors.UnavailableError(
            f"--launch=slurm needs submitit, which cannot be imported ({error}): run"
            " `pip install 'rrd_jax[studies]'`"
        ) from error
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise errors.UnavailableError(
            "--launch=slurm needs Slurm, whose sbatch is not on the PATH: start this where jobs are"
            " submitted, or use --launch=local"
        )
    return submitit


def wait(jobs: Sequence[Any], look: Callable[[], None]) -> list[str]:
    """Waits until Slurm has none of the tasks any more.

    It asks `squeue`, once for all: not every cluster keeps accounts, which `sacct` needs.

    Args:
      jobs: of `submit`.
      look: called now and then.

    Returns:
      Why tasks did not come to a good end, of those that did not.
    """
    names = {job.job_id for job in jobs}
    while (queued := _queued()) is None or names & queued:
        look()
        time.sleep(_POLL)
    return [found for job in jobs if (found := _problem(job))]


def _queued() -> set[str] | None:
    """The tasks of this user that wait or run; None where the scheduler does not answer."""
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return set(said.stdout.split())


def _problem(job: Any) -> str:
    """Why a task that has ended has no result; "" where it has one."""
    if job.paths.result_pickle.exists() and job.exception() is None:
        return ""
    return local.reason(job.paths.stdout)
