"""Measures of a finished run beyond its metrics.jsonl, stored in <run>/measures/<name>.npz.

    from experiments import measures

    values = measures.measure(pathlib.Path("runs/digits"), "alignment")
    values = measures.read(pathlib.Path("runs/digits"), "alignment")

`measure` computes and stores a measure; `read` reads a stored measure without importing JAX.
Values are arrays and numbers by name. The role of a network is a prefix, as in `student_top1`. The
function `compute` in the module of a measure documents the values.
"""

import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.measures import alignment, calibration, predictions, storage, tsne
from experiments.measures.outputs import NetworkOutputs, RunOutputs
from rrd_jax import errors
from rrd_jax.terminal import console

if TYPE_CHECKING:
    from rrd_jax.data import Dataset

__all__ = [
    "MEASURES",
    "NEED_TEACHER",
    "NetworkOutputs",
    "RunOutputs",
    "measure",
    "measure_missing",
    "missing",
    "read",
    "run_outputs",
]

MEASURES: Mapping[str, Callable[[RunOutputs], Mapping[str, np.ndarray | float]]] = {
    "predictions": predictions.compute,
    "calibration": calibration.compute,
    "alignment": alignment.compute,
    "tsne": tsne.compute,
}
# Measures that are not available for runs without a teacher.
NEED_TEACHER = frozenset({"alignment"})


def run_outputs(
    folder: pathlib.Path, teacher: pathlib.Path | None = None, dataset: "Dataset | None" = None
) -> RunOutputs:
    """Computes the outputs of a run; see `inference.run_outputs`."""
    # The module imports JAX, which `read` does not need.
    from experiments.measures import inference

    return inference.run_outputs(folder, teacher, dataset)


def measure(
    folder: pathlib.Path, name: str, outputs: RunOutputs | None = None
) -> Mapping[str, Any]:
    """Computes and stores a measure, unless the file of the current checkpoint exists.

    Args:
      folder: a workdir.
      name: one of `MEASURES`.
      outputs: the outputs of the run, if they are already computed.

    Raises:
      InputError: the name is unknown, or the run cannot be measured.
      DiskError: the file cannot be written.
    """
    function, folder = errors.lookup("measure", name, MEASURES), pathlib.Path(folder)
    if (values := _intact(folder, name, outputs)) is not None:
        return values
    if not folder.is_dir():
        raise errors.InputError(
            f"{folder} is not a folder; pass the workdir of a run to measure its newest checkpoint"
        )
    outputs = outputs or run_outputs(folder)
    values = storage.plain(function(outputs))
    origin = outputs.origin or {"student": storage.newest_digest(folder) or ""}
    storage.write(storage.path(folder, name), values, origin)
    return values


def read(
    folder: pathlib.Path, name: str, outputs: RunOutputs | None = None
) -> Mapping[str, Any] | None:
    """Returns a stored measure; None if the file is missing or belongs to an older checkpoint.

    The measures of a run remain readable after its checkpoints are deleted.

    Args:
      folder: a workdir.
      name: one of `MEASURES`.
      outputs: outputs whose teacher and images the stored measure must match; None for no
        requirement.

    Raises:
      InputError: the name is unknown, or the file is damaged.
    """
    errors.lookup("measure", name, MEASURES)
    stored = storage.read(storage.path(folder, name))
    if stored is None:
        return None
    values, origin = stored
    if outputs is not None and outputs.origin:
        return values if origin == outputs.origin else None
    newest = storage.newest_digest(pathlib.Path(folder))
    return values if newest in (None, origin.get("student")) else None


def missing(folder: pathlib.Path, names: Collection[str]) -> list[str]:
    """Returns the measures that are not stored for a run's newest checkpoint, without JAX.

    For a damaged file, the function prints a warning and returns its measure too.

    Raises:
      InputError: a name is unknown.
    """
    return [name for name in names if _intact(pathlib.Path(folder), name) is None]


def measure_missing(
    folder: pathlib.Path, names: Collection[str], source: pathlib.Path | None = None
) -> None:
    """Computes missing measures; prints a note for a run that cannot be measured.

    Args:
      folder: a workdir, or a folder with its `measures`.
      names: names of `MEASURES`.
      source: the workdir with the checkpoints; None for `folder`.
    """
    if not (names := missing(folder, names)):
        return
    source = source or folder
    console.progress("page", [f"{folder.name}: {', '.join(names)}"])
    try:
        outputs = run_outputs(source)
        for name in names:
            if outputs.teacher is not None or name not in NEED_TEACHER:
                measure(folder, name, outputs)
    except errors.DiskError:
        raise
    except errors.InputError as error:
        console.note(f"measures: skipped {source}: {error}")


def _intact(
    folder: pathlib.Path, name: str, outputs: RunOutputs | None = None
) -> Mapping[str, Any] | None:
    """Returns a measure like `read`; prints a warning and returns None for a damaged file."""
    errors.lookup("measure", name, MEASURES)
    try:
        return read(folder, name, outputs)
    except errors.InputError as error:
        console.warn(str(error))
        return None
