"""A study's runs as job arrays of Slurm, by submitit: first the teachers, then the runs.

Each run is a task of an array. One that is preempted, or comes to its time limit, saves its state
and is queued again, and goes on from there.
"""

import dataclasses
import pathlib
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rrd_jax import errors

_POLL = 5.0  # seconds between two looks at the queue


@dataclasses.dataclass(frozen=True)
class Options:
    """Of the arrays, as `sbatch` has them; "" or 0 for the cluster's own.

    Attributes:
      partition: of the cluster.
      minutes: of a task.
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

    def __call__(self) -> int:
        """Runs the worker; submitit's own process is left free for its signals."""
        self._process = subprocess.Popen(self._command)
        code = self._process.wait()
        if code:
            raise RuntimeError(f"the worker stopped with exit code {code}")
        return code

    def checkpoint(self) -> Any:
        """Called by submitit before the task is taken away: the state is saved, the task queued."""
        import submitit

        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()
        return submitit.helpers.DelayedSubmission(Task(self._command))


def submit(
    folder: pathlib.Path,
    teachers: Mapping[str, Sequence[str]],
    runs: Mapping[str, Sequence[str]],
    options: Options,
) -> list[Any]:
    """Hands all tasks to Slurm; returns submitit's jobs.

    Args:
      folder: receives what the tasks say.
      teachers: commands that each train one, by name.
      runs: commands that each make one, by name; they start when all teachers have ended.
      options: of the arrays.

    Raises:
      UnavailableError: submitit or Slurm is not there.
      InputError: Slurm refuses the arrays.
    """
    before = _array(folder, "teachers", teachers, options, {}) if teachers else []
    after = {}
    if before:  # of an array its number stands for all of its tasks
        after = {"dependency": f"afterany:{before[0].job_id.split('_')[0]}"}
    return before + (_array(folder, "runs", runs, options, after) if runs else [])


def _array(
    folder: pathlib.Path,
    name: str,
    commands: Mapping[str, Sequence[str]],
    options: Options,
    more: Mapping[str, Any],
) -> list[Any]:
    executor = _executor(folder / "slurm" / name)
    executor.update_parameters(
        name=f"rrd_jax-{name}",
        timeout_min=options.minutes or 24 * 60,
        slurm_array_parallelism=options.most,
        slurm_additional_parameters={**options.more, **more},
        **({"slurm_partition": options.partition} if options.partition else {}),
        **({"gpus_per_node": options.gpus} if options.gpus else {}),
        **({"cpus_per_task": options.cpus} if options.cpus else {}),
        **({"slurm_mem": options.memory} if options.memory else {}),
    )
    import submitit

    try:
        return executor.submit_array([Task(command) for command in commands.values()])
    except (submitit.core.utils.FailedJobError, OSError) as error:
        text = " ".join(str(error).split())
        raise errors.InputError(f"Slurm does not take the jobs: {text[-400:]}") from error


def _executor(folder: pathlib.Path) -> Any:
    try:
        import submitit
    except ImportError as error:
        raise errors.UnavailableError(
            f"--launch=slurm needs submitit, which cannot be imported ({error}): run"
            " `pip install 'rrd_jax[studies]'`"
        ) from error
    try:
        return submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=1000)
    except RuntimeError as error:
        raise errors.UnavailableError(
            "--launch=slurm needs Slurm, whose sbatch is not on the PATH: start this where jobs are"
            " submitted, or use --launch=local"
        ) from error


def wait(jobs: Sequence[Any], look: Callable[[], None]) -> None:
    """Waits until all tasks have ended; Slurm goes on with them when this is stopped."""
    import time

    while not all(job.done() for job in jobs):
        look()
        time.sleep(_POLL)
