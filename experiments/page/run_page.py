"""The page of a run: accuracy compared with the teacher, losses and measures."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.page import measure_sections, styles
from experiments.page.charts import Values, learning_curves, run_values
from experiments.page.elements import Cell, Chart, Element, Figure, Folded, Page, Section, Table
from experiments.page.results import label
from experiments.page.study_page import source_of
from experiments.study import records
from experiments.study.records import RunRecord, is_number
from rrd_jax import errors, user_paths
from rrd_jax.run_folder.config_fields import flatten

# Columns of the alignment panels by axis title; small data sets vote with 10 neighbors.
_ALIGNMENT = {
    "common 10 nearest neighbors (%)": ("neighbours_10",),
    "CKA": ("cka",),
    "nearest-neighbor top-1 (%)": ("knn_20", "knn_10"),
    "linear probe top-1 (%)": ("probe",),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """The contents of a workdir.

    Attributes:
      folder: the workdir.
      student: the record of the run.
      others: records of "teacher", "student alone" and "student from random weights", if trained.
      config: config fields by path.
      model: the contents of model.json.
      provenance: command, versions and date of the start.
    """

    folder: pathlib.Path
    student: RunRecord
    others: Mapping[str, RunRecord]
    config: Mapping[str, Any]
    model: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @property
    def training(self) -> Mapping[str, Any]:
        """The training section of model.json."""
        return self.model.get("training") or {}


def read(folder: pathlib.Path) -> Run:
    """Reads a workdir.

    Raises:
      InputError: the folder is not a workdir, or its config is damaged.
    """
    if not (folder / "config.json").is_file():
        reason = "is not the workdir of a run: config.json is missing; pass another --workdir"
        if (folder / records.PLAN).is_file():
            reason = "is the folder of a study; pass --study"
        raise errors.InputError(f"{folder} {reason}")
    try:
        content = user_paths.read_json(folder / "config.json")
        starts = content.pop("starts", {})
        config = flatten(content)
        epochs = int(config["train.epochs"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise errors.InputError(
            f"{folder / 'config.json'} is damaged ({error}); restore the file"
        ) from error
    try:
        model = user_paths.read_json(folder / "model.json")
    except (OSError, ValueError):
        model = {}
    model = model if isinstance(model, dict) else {}
    training = model.get("training") or {}
    start = starts.get("latest", {}) if isinstance(starts, dict) else {}
    return Run(
        folder=folder,
        student=_record(folder, "student", epochs, int(config.get("seed", 0))),
        others=dict(_others(folder, training)),
        config=config,
        model=model,
        provenance=training.get("start") or start,
    )


def _record(folder: pathlib.Path, name: str, epochs: int = 0, seed: int = 0) -> RunRecord:
    rows, error = records.read_rows(folder), records.read_error(folder)
    return RunRecord({}, seed, name, folder, name, epochs, rows, error)


def _others(folder: pathlib.Path, training: Mapping[str, Any]) -> Iterator[tuple[str, RunRecord]]:
    folders = {
        "teacher": [folder / "teacher"],
        "student alone": [folder / "alone"],
        "student from random weights": [folder / "scratch"],
    }
    for teacher in (training.get("teachers") or [])[:1]:
        path = pathlib.Path(teacher.get("checkpoint", "").partition("@")[0])
        folders["teacher"].append(path.parent if path.name == "checkpoints" else path)
    for name, paths in folders.items():
        records_with_rows = [record for path in paths if (record := _record(path, name)).rows]
        if records_with_rows:
            yield name, records_with_rows[0]


def page(run: Run) -> Page:
    """Returns the page of a run, finished or not."""
    teachers = run.training.get("teachers") or []
    digests = {
        f"teacher {i}" if len(teachers) > 1 else "teacher": f"{teacher.get('model', '')}"
        f" {teacher.get('digest', '')}"
        for i, teacher in enumerate(teachers)
    }
    dataset = str(run.training.get("dataset") or "")
    details = source_of(run.provenance) | digests | ({"data": dataset} if dataset else {})
    contents: list[Element] = list(_by_epoch(run)) if run.student.rows else []
    style = styles.of_levels(["student"])
    compared = measure_sections.Compared("run", {"student": [run.student]}, style)
    contents += measure_sections.elements([compared])
    rows = tuple((Cell(name), Cell(str(value))) for name, value in run.config.items())
    contents.append(Folded("Configuration", (Table("run-config", "", ("field", "value"), rows),)))
    answer = _answer(run)
    section = Section("run", "Results of the run", answer, tuple(contents), details)
    network = run.model.get("model") or run.config.get("student.model", "")
    about = f"Student {network}"
    if parameters := run.training.get("parameters"):
        about += f", {parameters:,} parameters"
    if dataset:
        about += f"; {run.training.get('images', 0):,} training images of {dataset}"
    facts = [str(run.config.get("method", "")), f"seed {run.student.seed}", run.student.state]
    return Page(
        kicker=f"Run {run.folder.name}",
        title=str(run.config.get("name") or run.folder.name),
        about=f"{about}.",
        facts=tuple(filter(None, [*facts, details.get("date", "")[:10]])),
        sections=(section,),
        source=details,
    )


def _answer(run: Run) -> str:
    if not run.student.rows:
        return "No epoch has finished yet."
    last = run.student.rows[-1]
    words = [f"After epoch {last['epoch']} of {run.student.epochs}"]
    if "test/top1" in last:
        words.append(f"test top-1 is {last['test/top1']:.2f} %")
    elif "test/loss" in last:
        words.append(f"the held-out loss is {last['test/loss']:.4f}")
    if "best/top1" in last:
        words.append(f"the best was {last['best/top1']:.2f} % in epoch {last.get('best/epoch')}")
    if "test/agreement" in last:
        words.append(f"the agreement with the teacher is {last['test/agreement']:.2f} %")
    for name, other in run.others.items():
        if is_number(top1 := other.rows[-1].get("test/top1")):
            words.append(f"the {name} has {top1:.2f} %")
    return ", ".join(words) + ". A single run has no estimate of noise (n = 1)."


def _by_epoch(run: Run) -> Iterator[Element]:
    student = run.student
    runs = [("student", student), *run.others.items()]
    top1 = run_values(runs, "test/top1")
    top1 += run_values([("student, training images", student)], "train/top1")
    yield from _figure("accuracy", "Accuracy by epoch", {label("test/top1"): top1})
    names = sorted({name for row in student.rows for name in row if name.startswith("train/loss")})
    losses = run_values([("test", student)], "test/loss")
    for name in names:
        losses += run_values(
            [(name.replace("train/loss", "train").replace("/", " "), student)], name
        )
    yield from _figure("losses", "Losses by epoch", {"loss": losses})
    columns = ("learning_rate", "test/agreement", "images_per_second")
    panels = {label(column): run_values([("student", student)], column) for column in columns}
    yield from _figure("progress", "Progress of the run", panels)
    yield from _figure("proof", "Alignment with the teacher by epoch", alignment_panels(student))
    rows = []
    columns = ("test/top1", "best/top1", "test/top5", "test/agreement", "train/top1")
    for name, other in runs:
        numbers = [other.rows[-1].get(column) for column in columns]
        cells = [Cell(f"{x:.2f}", x) if is_number(x) else Cell("–") for x in numbers]
        rows.append((Cell(name), Cell(str(other.epoch), other.epoch), *cells))
    header = ("run", "epoch", *(label(column) for column in columns))
    caption = "Single runs, without intervals. The best epoch was selected on the test images."
    yield Table("run-values", "Last epoch", header, tuple(rows), caption)


def _figure(name: str, title: str, panels: Mapping[str, Values]) -> Iterator[Figure]:
    panels = {text: values for text, values in panels.items() if values}
    if not panels:
        return
    legend = styles.of_levels(
        dict.fromkeys(row["level"] for values in panels.values() for row in values)
    )
    legend |= {"teacher": styles.TEACHER} if "teacher" in legend else {}
    last = ", ".join(
        f"{row['level']} {row['value'][-1]:.4g}" for values in panels.values() for row in values
    )
    yield Figure(
        name=f"run-{name}",
        title=title,
        charts=tuple(
            Chart(learning_curves(values, text, legend), text if len(panels) > 1 else "")
            for text, values in panels.items()
        ),
        caption="Values by epoch.",
        alt=f"{title}. At the end: {last}",
        legend=legend,
    )


def alignment_panels(student: RunRecord) -> dict[str, Values]:
    """Returns alignment metrics by epoch, with random weights and the teacher as references."""
    panels = {}
    for title, names in _ALIGNMENT.items():
        for name in names[::-1]:
            runs = {"student": "", "random weights": "random_", "teacher": "teacher_"}
            values = [
                value
                for level, prefix in runs.items()
                for value in run_values([(level, student)], f"proof/{prefix}{name}")
            ]
            if values:
                panels[title] = values
    return panels
