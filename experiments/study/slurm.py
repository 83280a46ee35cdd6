"""Runs a study as Slurm job arrays with submitit: first the teachers, then the runs.

Each run is a task of an array. A task that is preempted or reaches its time limit saves its state,
is requeued, and resumes.
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
from rrd_jax import errors, user_paths
from rrd_jax.run_folder import atomic_write
from rrd_jax.terminal import interrupts

# Maximum number of tasks in an array: Slurm's default MaxArraySize.
_MAX_ARRAY_SIZE = 1000
# Seconds between two queries of the queue.
_POLL = 5.0
# The file with the stage and name of each queued task, for the next start.
_TASKS = "tasks.json"
# Seconds in which Slurm kills a task after it has signaled the task's worker to stop.
_KILL = 90


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the job arrays; "" or 0 selects the cluster's default.

    Attributes:
      partition: the partition.
      minutes: time limit of a task; 0 for a day.
      gpus: number of GPUs per task.
      cpus: number of cores per task.
      memory: memory per task, such as "32G".
      max_tasks: maximum number of concurrent tasks.
      sbatch: other options of sbatch, such as {"account": "lab"}.
    """

    partition: str = ""
    minutes: int = 0
    gpus: int = 0
    cpus: int = 0
    memory: str = ""
    max_tasks: int = 64
    sbatch: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Task:
    """A worker for one run or teacher; submitit pickles the object.

    Args:
      command: the command of the worker.
    """

    def __init__(self, command: Sequence[str]):
        self._command = list(command)
        self._process: subprocess.Popen | None = None
        # None while the worker runs.
        self._code: int | None = 0

    def __call__(self) -> None:
        """Runs the worker until it has ended; restarts a killed worker.

        Raises:
          RuntimeError: the worker failed; the task's log contains the error.
        """
        while local.was_killed(code := self._work()):
            # Slurm kills all processes of a task before it requeues the task. After code 75, this
            # process waits for that.
            time.sleep(_KILL if code == 75 else 1)
        if code:
            raise RuntimeError(f"the worker stopped with exit code {code}")

    def checkpoint(self) -> Any:
        """Saves the state and requeues the task; submitit calls this method before a preemption."""
        import submitit

        if self._code is None:
            self._process.send_signal(signal.SIGTERM)
        while self._code is None:
            time.sleep(0.1)
        return submitit.helpers.DelayedSubmission(Task(self._command))

    def _work(self) -> int:
        """Runs a worker and returns the exit code.

        A separate thread waits for the worker, because submitit's signals interrupt this thread and
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
    """Submits tasks to Slurm, except tasks that are still queued from a previous start.

    Args:
      folder: the folder of the study; its slurm/ receives the logs.
      stages: for each array, the commands of workers by the name of their run or teacher. An array
        starts when all tasks of the previous array have ended, successfully or not.
      options: options of the arrays.

    Returns:
      All jobs, including jobs of a previous start.

    Raises:
      UnavailableError: submitit or Slurm is not installed.
      InputError: Slurm rejects the arrays.
    """
    submitit = _import()
    path, queued = folder / "slurm" / _TASKS, _queued() or set()
    tasks = {number: task for number, task in _read(path).items() if number in queued}
    jobs: list[Any] = []
    previous: list[str] = []
    for stage, commands in stages.items():
        logs = folder / "slurm" / stage
        numbers = [number for number, task in tasks.items() if task[0] == stage]
        old = [submitit.SlurmJob(logs, number) for number in numbers]
        names = {tasks[number][1] for number in numbers}
        missing = [name for name in commands if name not in names]
        workers = [Task(commands[name]) for name in missing]
        new = _submit(_executor(logs, stage, options, previous), workers)
        tasks |= {job.job_id: [stage, name] for job, name in zip(new, missing, strict=True)}
        if new:
            atomic_write.write_json(path, tasks)
        jobs += old + new
        # The number of an array refers to all tasks of the array.
        previous = [*numbers, *sorted({job.job_id.split("_")[0] for job in new})] or previous
    return jobs


def _read(path: pathlib.Path) -> dict[str, list[str]]:
    """Returns the stage and name of each task, by the task's number."""
    try:
        return dict(user_paths.read_json(path))
    except (OSError, ValueError, TypeError):
        return {}


def _executor(folder: pathlib.Path, stage: str, options: Options, previous: Sequence[str]) -> Any:
    executor = _import().SlurmExecutor(folder, max_num_timeout=1000)
    parameters = {
        "requeue": True,
        "partition": options.partition,
        "gpus_per_node": options.gpus,
        "cpus_per_task": options.cpus,
        "mem": options.memory,
        "dependency": f"afterany:{':'.join(previous)}" if previous else "",
        **options.sbatch,
    }
    executor.update_parameters(
        job_name=f"rrd_jax-{stage}",
        time=options.minutes or 24 * 60,
        array_parallelism=options.max_tasks,
        stderr_to_stdout=True,
        additional_parameters={name: value for name, value in parameters.items() if value},
    )
    return executor


def _submit(executor: Any, tasks: Sequence[Task]) -> list[Any]:
    jobs: list[Any] = []
    try:
        for first in range(0, len(tasks), _MAX_ARRAY_SIZE):
            jobs += executor.submit_array(tasks[first : first + _MAX_ARRAY_SIZE])
    except (_import().core.utils.FailedJobError, OSError) as error:
        text = " ".join(str(error).split())
        raise errors.InputError(
            f"Slurm rejects the jobs: {text[-400:]}; change the options"
        ) from error
    return jobs


def _import() -> Any:
    """Imports submitit; raises an UnavailableError if submitit or Slurm is not installed."""
    try:
        import submitit
    except ImportError as error:
        raise errors.UnavailableError(
            f"--launch=slurm needs submitit, which cannot be imported ({error}); run"
            " `pip install 'rrd_jax[studies]'`"
        ) from error
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise errors.UnavailableError(
            "--launch=slurm needs Slurm, but sbatch or srun is not on the PATH; run the command on"
            " a login node, or use --launch=local"
        )
    return submitit


def wait(jobs: Sequence[Any], update: Callable[[], None]) -> list[str]:
    """Waits until all tasks have ended.

    The function polls `squeue`, because some clusters do not keep the records that `sacct` needs.

    Args:
      jobs: from `submit`.
      update: called repeatedly.

    Returns:
      The errors of failed tasks.
    """
    names = {job.job_id for job in jobs}
    while (queued := _queued()) is None or names & queued:
        update()
        time.sleep(_POLL)
        interrupts.check()
    return [problem for job in jobs if (problem := _problem(job))]


def _queued() -> set[str] | None:
    """Returns this user's queued and running tasks; None if the scheduler does not answer."""
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i"]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return set(process.stdout.split())


def _problem(job: Any) -> str:
    """Returns the reason why a task failed; "" for a task that did not fail."""
    if job.paths.result_pickle.exists() and job.exception() is None:
        return ""
    return local.reason(job.paths.stdout)
