"""Runs in trackio, in its local database or in a Space."""

from collections.abc import Mapping
from typing import Any

import trackio

from rrd_jax.run_folder.config_fields import flatten
from rrd_jax.run_folder.trackers.messages import Status


class Run:
    """A run of trackio.

    Args:
      run: the run.
      last_step: the last step of its earlier starts; -1 for a new run.
    """

    def __init__(self, run: trackio.Run, last_step: int):
        self._run, self._step = run, last_step
        self.location = f"project {run.project}, run {run.name}"

    def last_step(self) -> int:
        """Returns the last reported step; -1 for a new run."""
        return self._step

    def log(self, row: Mapping[str, float]) -> None:
        """Reports the metrics of an epoch."""
        self._step = row["step"]
        metrics = {name: value for name, value in row.items() if name != "step"}
        self._run.log(metrics, step=self._step)

    def end(self, status: Status, summary: Mapping[str, Any]) -> None:
        """Ends this start of the run, and waits until the metrics are stored."""
        del status
        numbers = {f"result/{n}": v for n, v in summary.items() if isinstance(v, int | float)}
        if numbers:
            self._run.log(numbers, step=self._step)
        self._run.finish()


def start(run: Mapping[str, Any]) -> Run:
    """Creates a run, or continues the run with the same id, which is a part of its name."""
    started = trackio.init(
        project=run["project"],
        name=f"{run['name']}-{run['id']}",
        group=run["group"],
        config=flatten(run["config"]),
        resume="allow",
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )
    # The run continues after the last step in the database or in the Space.
    return Run(started, getattr(started, "_next_step", 0) - 1)
