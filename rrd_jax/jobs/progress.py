"""Progress and result of a run, as its checkpoints keep them."""

import dataclasses
import inspect
import pathlib
from typing import Any, NamedTuple

from rrd_jax import checkpoints, errors


class Result(NamedTuple):
    """A finished run; percentages are of the test split, `top1` and `agreement` the last epoch's.

    Attributes:
      label: what the console calls the run.
      model: the network's name.
      top1: test top-1 after the last epoch; None without labels.
      best_top1: the highest test top-1; None without labels.
      best_epoch: the epoch of `best_top1`, without labels of `best_loss`.
      agreement: share of test images for which student and teacher predict the same class; None
        without a teacher.
      parameters: number of parameters.
      seconds: wall time, over all starts.
      checkpoint: folder of the checkpoints.
      loss: without labels, the held-out loss after the last epoch, if the run has one.
      best_loss: likewise, the lowest held-out loss.
      proof: the last figures of `alignment_during_training`; None without any.
    """

    label: str
    model: str
    top1: float | None
    best_top1: float | None
    best_epoch: int
    agreement: float | None
    parameters: int
    seconds: float
    checkpoint: str
    loss: float | None = None
    best_loss: float | None = None
    proof: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON, without optional ones that are empty."""
        optional = ("loss", "best_loss", "proof")
        fields = self._asdict()
        return {k: v for k, v in fields.items() if k not in optional or v not in (None, {})}


@dataclasses.dataclass
class Progress:
    """The JSON that a checkpoint keeps beside the train state; its keys are a file format.

    Attributes:
      model: the student's name.
      num_classes: C.
      image_shape: (H, W, channels).
      dataset: version of the data set.
      classifier: the objective that classifies in the student's place, "" for none.
      epoch: number of finished epochs.
      seconds: wall time so far.
      sums: sum of each logged scalar over the current epoch's steps.
      recalls: True if the steps read the teacher's cached embeddings.
      best: best test top-1 and its epoch; without labels the lowest held-out loss and its epoch.
      result: the Result after `epoch`, as a dict.
      about: the network's ModelInfo, as JSON.
    """

    model: str
    num_classes: int
    image_shape: list[int]
    dataset: str = ""
    classifier: str = ""
    epoch: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    recalls: bool = False
    best: dict[str, float] = dataclasses.field(default_factory=lambda: {"top1": -1.0, "epoch": 0})
    result: dict[str, Any] | None = None
    about: dict[str, Any] = dataclasses.field(default_factory=dict)


def finished(folder: pathlib.Path, epochs: int, version: str | None = None) -> Result | None:
    """Returns the result of a finished run without starting anything; None if it is unfinished.

    Args:
      folder: the run's.
      epochs: the run's number of epochs.
      version: of the data set; None to leave that unchecked.

    Raises:
      InputError: the run is on another data set, or by a newer version of rrd_jax.
    """
    meta = checkpoints.read_meta(folder / "checkpoints")
    if meta is None:
        return None
    progress = read(meta, folder)
    if progress.epoch < epochs or not progress.result:
        return None
    if version is not None:
        check_data(folder, progress.dataset, version)
    return _create(Result, progress.result, folder)


def read(meta: dict[str, Any], folder: pathlib.Path) -> Progress:
    """Creates the Progress that a checkpoint of a folder keeps.

    Raises:
      InputError: another version of rrd_jax, or another program, wrote it.
    """
    return _create(Progress, meta, folder)


def _create(kind: type, fields: dict[str, Any], folder: pathlib.Path) -> Any:
    known = inspect.signature(kind).parameters
    if unknown := ", ".join(sorted(fields.keys() - known.keys())):
        raise errors.InputError(
            f"the run in {folder} was written by a newer version of rrd_jax, which keeps"
            f" {unknown}: install that version, or pass another --workdir"
        )
    try:
        return kind(**fields)
    except TypeError as error:  # A required field is missing.
        raise errors.InputError(
            f"{folder} does not hold a run of this version of rrd_jax ({error}); pass another"
            " --workdir"
        ) from error


def check_data(folder: pathlib.Path, before: str, now: str) -> None:
    """Raises an InputError if a run is resumed on another version of its data set."""
    if before not in ("", now):
        raise errors.InputError(
            f"{folder} holds a run on {before}, but the data are now {now}: pass another"
            " --workdir, or bring those data back"
        )
