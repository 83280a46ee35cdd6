"""Networks of a run: the student and its teachers, with their sizes and the teachers' accuracy."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments import measures
from experiments.study import records
from experiments.study.records import is_number
from rrd_jax import errors, user_paths

RANDOM_IMAGES = "The images are random, so accuracies mean nothing."


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of a run.

    Attributes:
      label: the name in tables, such as "teacher".
      model: the name of the network.
      parameters: number of parameters; 0 if unknown.
      top1: test top-1 of the weights that the run uses, in percent; None if unknown.
      source: the location of the weights; "" if unknown.
    """

    label: str
    model: str
    parameters: int
    top1: float | None = None
    source: str = ""

    @property
    def size(self) -> str:
        """The number of parameters and their size in float32."""
        return f"{self.parameters:,} parameters ({4 * self.parameters / 1e6:.3g} MB in float32)"


def student_of(folder: pathlib.Path) -> Network:
    """Returns the trained network of a run folder."""
    model = user_paths.read_object(folder / "model.json") or {}
    count = (model.get("training") or {}).get("parameters")
    name = str(model.get("model") or "")
    return Network("student", name, count if isinstance(count, int) else 0)


def teachers_of(folder: pathlib.Path) -> list[Network]:
    """Returns the teachers of a run, as its table of results lists them.

    The accuracy of a run's only teacher comes from the measures of the run, whose other figures
    have the same predictions; then from the results that the run has written; then from the metrics
    of the teacher's own run, at the checkpoint that the run uses.
    """
    model = user_paths.read_object(folder / "model.json") or {}
    training = model.get("training") or {}
    used = training.get("teachers") or []
    rows = [row for row in _results(folder) if str(row.get("label")).startswith("teacher")]
    # The row of a teacher with another classifier comes last, and has the predictions of the run.
    stored = {str(row["label"]).partition(",")[0]: row for row in rows}
    measured = _measured_top1(folder) if len(used) == 1 else None
    teachers = []
    for i, teacher in enumerate(used):
        label = f"teacher{i + 1}" if i else "teacher"
        source = str(teacher.get("checkpoint") or "")
        row = stored.get(label, {})
        home, epoch_row = _own_run(folder / label, source)
        top1 = next(
            filter(is_number, (measured, row.get("top1"), epoch_row.get("test/top1"))), None
        )
        teachers.append(
            Network(
                label=label,
                model=str(teacher.get("model") or ""),
                parameters=row.get("parameters") or student_of(home).parameters,
                top1=top1,
                source=source,
            )
        )
    return teachers


def compare_sizes(student: Network, teacher: Network) -> str:
    """Returns a clause with the size of a student and of its teacher; "" if unknown."""
    if not student.parameters:
        return ""
    if not teacher.parameters:
        return student.size
    ratio = teacher.parameters / student.parameters
    change = f"{ratio:.3g} times fewer than" if ratio >= 1 else f"{1 / ratio:.3g} times as many as"
    return f"{student.size}, {change} the teacher's {teacher.size}"


def is_random(config: Mapping[str, Any]) -> bool:
    """Returns True for a run on random images, from its config fields by path."""
    return bool(config.get("data.mock_examples"))


def _results(folder: pathlib.Path) -> list[dict[str, Any]]:
    try:
        rows = user_paths.read_json(folder / "results.json")
    except (OSError, ValueError):
        return []
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _measured_top1(folder: pathlib.Path) -> float | None:
    try:
        values = measures.read(folder, "predictions")
    except errors.InputError:
        return None
    return float(values["teacher_top1"]) if values and "teacher_top1" in values else None


def _own_run(inner: pathlib.Path, source: str) -> tuple[pathlib.Path, Mapping[str, Any]]:
    """Returns the folder of a teacher's run, and its metrics at the checkpoint that is used."""
    path, _, checkpoint = source.partition("@")
    home = pathlib.Path(path)
    home = home.parent if home.name == "checkpoints" else home
    if not (rows := records.read_rows(home)):
        # The teacher of a study that was moved, or of a run of an earlier version.
        home, checkpoint, rows = inner, "", records.read_rows(inner)
    if not rows:
        return home, {}
    if checkpoint in ("", "last"):
        return home, rows[-1]
    column, value = "step", int(checkpoint) if checkpoint.isdecimal() else None
    if checkpoint == "best":
        column, value = "epoch", rows[-1].get("best/epoch")
    return home, next((row for row in rows if row.get(column) == value), {})
