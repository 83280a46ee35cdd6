"""Runs a study as job arrays of Slurm with submitit: first the teachers, then the runs.

Each run is a task of an array. A task that is preempted or reaches its time limit saves its state,
is queued again, and resumes.
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
    """Options of the arrays; "" or 0 for the cluster's defaults.

    Attributes:
      partition: of the cluster.
      minutes: time limit of a task; 0 for a day.
      gpus: GPUs of a task.
      cpus: cores of a task.
      memory: of a task, such as "32G".
      most: the largest number of tasks that run at once.
      more: further options of sbatch, such as {"account": "lab"}.
    """

    partition: str = ""
    minutes: int = 0
    gpus: int = 0
    cpus: int = 0
    memory: str = ""
    most: int = 64
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Task:
    """A worker for one run or teacher, which submitit pickles.

    Args:
      command: of the worker.
    """

    def __init__(self, command: Sequence[str]):
        self._command = list(command)
        self._process: subprocess.Popen | None = None
        self._code: int | None = 0  # None while the worker runs

    def __call__(self) -> None:
        """Runs the worker until it has ended; restarts a killed worker.

        Raises:
          RuntimeError: the worker failed; its error is in the log of the task.
        """
        while local.was_killed(code := self._work()):
            # Slurm ends all processes of a task before it is queued again: this one is ended then.
            time.sleep(_KILL if code == 75 else 1)
        if code:
            raise RuntimeError(f"the worker stopped with exit code {code}")

    def checkpoint(self) -> Any:
        """Saves the state, and queues the task again; submitit calls this before a preemption."""
        import submitit

        if self._code is None:
            self._process.send_signal(signal.SIGTERM)
        while self._code is None:
            time.sleep(0.1)
        return submitit.helpers.DelayedSubmission(Task(self._command))

    def _work(self) -> int:
        """Runs a worker, and returns its exit code.

        A thread waits for the worker, because submitit's signals interrupt this thread, and
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
    """Submits tasks to Slurm, except those still queued from an earlier start; returns all jobs.

    Args:
      folder: of the study, whose slurm/ receives the logs.
      stages: for each array, the commands of workers by the name of their run or teacher. An array
        starts when all tasks of the previous one have ended, successfully or not.
      options: of the arrays.

    Raises:
      UnavailableError: submitit or Slurm is not installed.
      InputError: Slurm rejects the arrays.
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
    """Returns the stage and name of each task by its number."""
    try:
        return dict(errors.read_json(path))
    except (OSError, ValueError, TypeError):
        return {}


def _executor(folder: pathlib.Path, stage: str, options: Options, before: Sequence[str]) -> Any:
    executor = _import().SlurmExecutor(folder, max_num_timeout=1000)
    parameters = {
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
        additional_parameters={name: value for name, value in parameters.items() if value},
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
    """Imports submitit; raises an UnavailableError without it or Slurm."""
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
    """Waits until all tasks have ended.

    It polls `squeue`, because not every cluster keeps the accounts that `sacct` needs.

    Args:
      jobs: from `submit`.
      look: called repeatedly.

    Returns:
      The errors of failed tasks.
    """
    names = {job.job_id for job in jobs}
    while (queued := _queued()) is None or names & queued:
        look()
        time.sleep(_POLL)
    return [found for job in jobs if (found := _problem(job))]


def _queued() -> set[str] | None:
    """Returns this user's queued and running tasks; None if the scheduler does not answer."""
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return set(said.stdout.split())


def _problem(job: Any) -> str:
    """Returns why a task that has ended failed; "" if it did not."""
    if job.paths.result_pickle.exists() and job.exception() is None:
        return ""
    return local.reason(job.paths.stdout)
