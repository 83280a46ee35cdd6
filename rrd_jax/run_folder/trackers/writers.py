"""Trackers that receive the metrics of a run in addition to metrics.jsonl.

TensorBoard's files are written in this process. wandb, MLflow and trackio run in a process of their
own, because their libraries can wait for a network, print, or end with an error at any time.
"""

import importlib.util
import pathlib
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from rrd_jax import buckets, errors, user_paths
from rrd_jax.run_folder import atomic_write, workdir
from rrd_jax.run_folder.trackers import process, tensorboard
from rrd_jax.training.choices import ReportChoice
from rrd_jax.training.choices.report import TENSORBOARD, TRACKERS

_FILE = "trackers.json"


class Writer(Protocol):
    """The interface of a tracker."""

    def row(self, row: Mapping[str, Any]) -> None:
        """Reports the metrics of an epoch: numbers by name, with "step" among them."""

    def poll(self) -> None:
        """Prints what the tracker has reported since the last call."""

    def end(self, summary: Mapping[str, Any] | None, error: BaseException | None) -> None:
        """Ends the report of this start, without waiting for the tracker.

        Args:
          summary: the result of a finished run, as JSON; None for an unfinished run.
          error: the exception that ends this start; None without one.
        """

    def close(self) -> None:
        """Waits until the tracker has received everything, for a limited time after `end`."""


class _Identity(NamedTuple):
    """The names of a run in a tracker.

    Attributes:
      id: unique name of the run, which all starts share.
      name: name of the run for people.
      project: see `ReportChoice`.
      group: see `ReportChoice`.
    """

    id: str
    name: str
    project: str
    group: str


def check(choice: ReportChoice) -> None:
    """Raises an UnavailableError if the library of a tracker is not installed."""
    for name in choice.to:
        if name != TENSORBOARD and importlib.util.find_spec(name) is None:
            raise errors.UnavailableError(
                f"report.to names {name}, which is not installed; run"
                f" `pip install 'rrd_jax[{name}]'`, or omit {name}"
            )


def start(
    choice: ReportChoice,
    folder: pathlib.Path,
    label: str,
    rows: Sequence[dict[str, Any]],
    step: int,
) -> list[Writer]:
    """Starts the trackers of a run.

    Args:
      choice: the trackers.
      folder: the run folder.
      label: name of the run on the console.
      rows: the rows of earlier starts up to `step`. A tracker that lacks them receives them.
      step: number of updates before this start; 0 for a new run.
    """
    writers: list[Writer] = []
    if TENSORBOARD in choice.to:
        writers.append(tensorboard.Board(folder / "tensorboard", step))
    names = [name for name in choice.to if name in TRACKERS]
    if names:
        home = _job_folder(folder)
        message = {
            **_identity(choice, folder, home)._asdict(),
            "order": time.time_ns(),
            "config": workdir.read_fields(folder) or workdir.read_fields(home) or {},
            "rows": list(rows),
        }
        writers += [process.Process(name, label, message) for name in names]
    return writers


def forget(folder: pathlib.Path) -> None:
    """Lets the next start of a run folder begin a new run in the trackers."""
    if buckets.is_bucket(folder):
        return buckets.delete(folder / _FILE)
    (folder / _FILE).unlink(missing_ok=True)


def _job_folder(folder: pathlib.Path) -> pathlib.Path:
    """Returns the workdir of the job of a run; the other runs of a job are in its subfolders."""
    home = folder
    while (home.parent / "config.json").is_file():
        home = home.parent
    return home


def _identity(choice: ReportChoice, folder: pathlib.Path, home: pathlib.Path) -> _Identity:
    """Returns the names of a run; its id is created at the first start and kept in its folder."""
    stored = user_paths.read_object(folder / _FILE) or {}
    unique = stored.get("id")
    if not isinstance(unique, str) or not unique.isalnum():
        unique = secrets.token_hex(4)
        atomic_write.write_json(folder / _FILE, {"id": unique})
    job = home.absolute().name
    parts = [job, *folder.relative_to(home).parts]
    return _Identity(unique, "/".join(parts), choice.project or "rrd_jax", choice.group or job)
