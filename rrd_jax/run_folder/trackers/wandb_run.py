"""Runs in wandb, online or with WANDB_MODE=offline."""

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import wandb
from wandb.proto import wandb_internal_pb2

from rrd_jax.run_folder.trackers.messages import Status

_EXIT_CODES = {Status.FINISHED: 0, Status.FAILED: 1, Status.STOPPED: 255}
# Layout of the files of wandb: a header, and blocks of records, which can be split into parts.
_HEADER, _BLOCK, _PART_HEADER = 7, 2**15, 7
_FULL, _LAST = 1, 4


class Run:
    """A run of wandb.

    Args:
      run: the run.
      folder: folder of the files of all runs.
    """

    def __init__(self, run: wandb.Run, folder: pathlib.Path):
        self._run, self._folder = run, folder
        self.location = run.url or f"{run.dir.removesuffix('/files')} (offline, wandb sync)"

    def last_step(self) -> int:
        """Returns the last reported step; -1 for a new run."""
        if not self._run.offline:
            return self._run.step - 1
        files = self._folder.glob(f"*-{self._run.id}*/run-{self._run.id}.wandb")
        return max((step for file in files for step in _steps(file)), default=-1)

    def log(self, row: Mapping[str, float]) -> None:
        """Reports the metrics of an epoch."""
        metrics = {name: value for name, value in row.items() if name != "step"}
        self._run.log(metrics, step=row["step"], commit=True)

    def end(self, status: Status, summary: Mapping[str, Any]) -> None:
        """Ends this start of the run, and waits until the metrics are stored."""
        for name, value in summary.items():
            self._run.summary[f"result/{name}"] = value
        self._run.finish(exit_code=_EXIT_CODES[status])


def start(run: Mapping[str, Any]) -> Run:
    """Creates a run, or continues the run with the same id."""
    settings = wandb.Settings(console="off", disable_git=True, save_code=False)
    started = wandb.init(
        project=run["project"],
        name=run["name"],
        group=run["group"],
        id=run["id"],
        resume="allow",
        config=run["config"],
        allow_val_change=True,
        settings=settings,
    )
    return Run(started, pathlib.Path(started.settings.wandb_dir))


def _steps(file: pathlib.Path) -> Iterator[int]:
    """Yields the steps of the rows in a file of an offline run."""
    # protobuf creates the class when the module is imported.
    create = vars(wandb_internal_pb2)["Record"]
    for content in _records(file.read_bytes()):
        record = create()
        record.ParseFromString(content)
        for item in record.history.item:
            if item.key == "_step" or list(item.nested_key) == ["_step"]:
                yield int(json.loads(item.value_json))


def _records(content: bytes) -> Iterator[bytes]:
    """Yields the complete records in the content of a file."""
    start, record = _HEADER, b""
    while start + _PART_HEADER <= len(content):
        # A part does not cross the end of a block.
        if _BLOCK - start % _BLOCK < _PART_HEADER:
            start += _BLOCK - start % _BLOCK
            continue
        size = int.from_bytes(content[start + 4 : start + 6], "little")
        kind, start = content[start + 6], start + _PART_HEADER
        record += content[start : start + size]
        start += size
        if start > len(content):
            return
        if kind in (_FULL, _LAST):
            yield record
            record = b""
