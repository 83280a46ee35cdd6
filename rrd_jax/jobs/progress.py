"""Progress and result of a run, as stored in its checkpoints."""

import dataclasses
import inspect
import pathlib
from typing import Any, NamedTuple

from rrd_jax import checkpoints, errors


class Result(NamedTuple):
    """The result of a finished run; accuracies are percentages of the test split.

    The best epoch is the one that `criterion` chooses; see `rrd_jax.training.criterion`.

    Attributes:
      label: the name of the run on the console.
      model: the name of the network.
      top1: test top-1 after the last epoch; None without labels.
      best_top1: test top-1 of the best epoch; None without labels.
      best_epoch: the best epoch; 0 for none.
      agreement: agreement with the teacher after the last epoch, in percent; None without a
        teacher.
      parameters: number of parameters.
      seconds: wall time over all starts.
      checkpoint: folder of the checkpoints.
      loss: the held-out loss after the last epoch of a run without labels; None if undefined.
      best_loss: the held-out loss of the best epoch without labels; None if undefined.
      proof: the last metrics of `alignment_during_training`; None if not measured.
      best_by: the criterion, such as "test/top1" or "val/top1"; None for runs without a criterion,
        and in results of version 0.2.0.
      score: the criterion after the last epoch; None if it was not measured.
      best_score: the criterion of the best epoch; None if it was not measured.
      val: metrics of the validation images after the last epoch; None without validation images.
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
    best_by: str | None = None
    score: float | None = None
    best_score: float | None = None
    val: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON, without empty optional fields."""
        fields = self._asdict()
        return {
            name: value
            for name, value in fields.items()
            if name not in self._field_defaults or value not in (None, {})
        }


@dataclasses.dataclass
class Progress:
    """The JSON that a checkpoint stores next to the train state; its keys are a file format.

    Attributes:
      model: the name of the student's network.
      num_classes: C.
      image_shape: (H, W, channels).
      dataset: version of the data set.
      classifier: the objective that replaces the student's classifier; "" for none.
      epoch: number of finished epochs.
      seconds: wall time so far.
      sums: sum of each logged scalar over the current epoch's steps.
      recalls: True if the steps read a teacher cache.
      best: the best epoch, its value of the criterion under `criterion.key`, and its test top-1 or,
        without labels, its held-out loss.
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
    """Reads the result of a finished run; returns None if the run is unfinished.

    Args:
      folder: the run folder.
      epochs: number of epochs of the run.
      version: version of the data set; None to skip this check.

    Raises:
      InputError: the run used another data set, or a newer version of rrd_jax.
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
    """Creates the Progress from the JSON of a checkpoint.

    Raises:
      InputError: another version of rrd_jax, or another program, wrote the checkpoint.
    """
    return _create(Progress, meta, folder)


def _create(kind: type, fields: dict[str, Any], folder: pathlib.Path) -> Any:
    parameters = inspect.signature(kind).parameters
    if unknown := ", ".join(sorted(fields.keys() - parameters.keys())):
        raise errors.InputError(
            f"the run in {folder} was written by a newer version of rrd_jax (unknown fields:"
            f" {unknown}); install that version, or pass another --workdir"
        )
    try:
        return kind(**fields)
    except TypeError as error:
        # A required field is missing.
        raise errors.InputError(
            f"{folder} does not contain a run of this version of rrd_jax ({error}); pass another"
            " --workdir"
        ) from error


def check_data(folder: pathlib.Path, stored: str, current: str) -> None:
    """Raises an InputError if a run is resumed on another version of its data set."""
    if stored not in ("", current):
        raise errors.InputError(
            f"{folder} holds a run on {stored}, but the data set is now {current}; pass another"
            " --workdir, or restore the data set"
        )
