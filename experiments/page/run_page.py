"""The page of a run: accuracy compared with the teacher, losses and measures."""

import base64
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.page import measure_sections, memories, networks, styles
from experiments.page.charts import Values, learning_curves, run_values
from experiments.page.elements import (
    Cell,
    Chart,
    Element,
    Figure,
    Folded,
    Page,
    Picture,
    Section,
    Table,
)
from experiments.page.networks import RANDOM_IMAGES, Network
from experiments.page.results import label
from experiments.page.study_page import source_of
from experiments.page.tables import best_epoch_caption, is_validated
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
    "common 10 nearest patches (%)": ("patch_neighbours_10",),
    "CKA of patches": ("patch_cka",),
    "linear probe on patches, mIoU (%)": ("miou",),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """The contents of a workdir.

    Attributes:
      folder: the workdir, or the copy of one in a bucket.
      location: the workdir.
      student: the record of the run.
      others: records of "student alone" and "student from random weights", if trained.
      teachers: the teachers, with the accuracy of the weights that the run uses.
      config: config fields by path.
      model: the contents of model.json.
      provenance: command, versions and date of the start.
    """

    folder: pathlib.Path
    location: pathlib.Path
    student: RunRecord
    others: Mapping[str, RunRecord]
    teachers: tuple[Network, ...]
    config: Mapping[str, Any]
    model: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @property
    def network(self) -> Network:
        """The trained network."""
        return networks.student_of(self.folder)

    @property
    def is_random(self) -> bool:
        """True if the images are random."""
        return networks.is_random(self.config)

    @property
    def is_validated(self) -> bool:
        """True if validation images choose the best epoch."""
        return is_validated(self.student)

    @property
    def training(self) -> Mapping[str, Any]:
        """The training section of model.json."""
        return self.model.get("training") or {}


def read(folder: pathlib.Path, location: pathlib.Path | None = None) -> Run:
    """Reads a workdir.

    Args:
      folder: the workdir, or its copy.
      location: the path of the workdir, if `folder` is a copy.

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
    model = user_paths.read_object(folder / "model.json") or {}
    training = model.get("training") or {}
    start = starts.get("latest", {}) if isinstance(starts, dict) else {}
    return Run(
        folder=folder,
        location=location or folder,
        student=_record(folder, "student", epochs, int(config.get("seed", 0))),
        others=dict(_others(folder)),
        teachers=tuple(networks.teachers_of(folder)),
        config=config,
        model=model,
        provenance=training.get("start") or start,
    )


def _record(folder: pathlib.Path, name: str, epochs: int = 0, seed: int = 0) -> RunRecord:
    rows, error = records.read_rows(folder), records.read_error(folder)
    return RunRecord({}, seed, name, folder, name, epochs, rows, error)


def _others(folder: pathlib.Path) -> Iterator[tuple[str, RunRecord]]:
    names = {"alone": "student alone", "scratch": "student from random weights"}
    for inner, name in names.items():
        if (record := _record(folder / inner, name)).rows:
            yield name, record


def page(run: Run) -> Page:
    """Returns the page of a run, finished or not."""
    teachers = run.training.get("teachers") or []
    digests = {
        f"teacher {i}" if len(teachers) > 1 else "teacher": f"{teacher.get('model', '')}"
        f" {teacher.get('digest', '')}"
        for i, teacher in enumerate(teachers)
    }
    dataset = _dataset(run)
    details = source_of(run.provenance) | digests | ({"data": dataset} if dataset else {})
    contents: list[Element] = list(_by_epoch(run)) if run.student.rows else []
    contents += _patches(run.folder)
    style = styles.of_levels(["student"])
    compared = measure_sections.Compared("run", {"student": [run.student]}, style)
    contents += measure_sections.elements([compared])
    rows = tuple((Cell(name), Cell(str(value))) for name, value in run.config.items())
    contents.append(Folded("Configuration", (Table("run-config", "", ("field", "value"), rows),)))
    answer = _answer(run)
    section = Section("run", "Results of the run", answer, tuple(contents), details)
    role = "student" if run.teachers else str(run.training.get("run") or "student")
    about = f"{role.capitalize()} {run.network.model or run.config.get('student.model', '')}"
    if run.network.parameters:
        about += f", {run.network.size}"
    if dataset:
        images = run.training.get("images", 0)
        about += f"; {images:,} training images of {dataset}"
    if run.is_random:
        about = f"{RANDOM_IMAGES} {about}"
    facts = [str(run.config.get("method", "")), f"seed {run.student.seed}", run.student.state]
    return Page(
        kicker=f"Run {run.folder.name}",
        title=str(run.config.get("name") or run.folder.name),
        about=f"{about}.",
        facts=tuple(filter(None, [*facts, details.get("date", "")[:10]])),
        sections=(section,),
        source=details,
    )


def _dataset(run: Run) -> str:
    """Returns the name of the data set: for a folder of images, the folder's name."""
    if run.is_random:
        return "random pixels"
    if name := run.training.get("dataset_name"):
        return str(name)
    folder = str(run.config.get("data.manual_dir") or "")
    if run.config.get("data.name") == "image_folder" and folder:
        return pathlib.Path(folder).name
    return str(run.training.get("dataset") or "")


def _answer(run: Run) -> str:
    if not run.student.rows:
        return "No epoch has finished yet."
    last, student = run.student.rows[-1], run.network
    top1, sentences = last.get("test/top1"), []
    start = f"After epoch {last['epoch']} of {run.student.epochs}"
    if is_number(top1):
        best = ""
        if is_number(last.get("best/top1")):
            images = "validation" if run.is_validated else "test"
            best = f" ({last['best/top1']:.2f} % in epoch {last.get('best/epoch')}, the best by"
            best += f" {images} images)"
        others = [(f"the {x.label} ({_origin(x)})", x.top1) for x in run.teachers]
        others += [(f"the {name}", o.rows[-1].get("test/top1")) for name, o in run.others.items()]
        clauses = [_distance(top1, value, name) for name, value in others if is_number(value)]
        sentences.append(", ".join([f"{start}, test top-1 is {top1:.2f} %{best}", *clauses]))
    elif "test/loss" in last:
        sentences.append(f"{start}, the held-out loss is {last['test/loss']:.4f}")
    if "test/agreement" in last:
        agreement = last["test/agreement"]
        sentences.append(
            f"It predicts the teacher's class for {agreement:.2f} % of the test images"
        )
    teacher = run.teachers[0] if len(run.teachers) == 1 else networks.Network("", "", 0)
    if size := networks.compare_sizes(student, teacher):
        sentences.append(f"{student.model} has {size}")
    sentences.append("A single run has no estimate of noise (n = 1)")
    return f"{RANDOM_IMAGES} " * run.is_random + ". ".join(sentences) + "."


def _origin(teacher: Network) -> str:
    return f"{teacher.model} from {teacher.source}" if teacher.source else teacher.model


def _distance(top1: float, other: float, name: str) -> str:
    change = top1 - other
    if abs(change) < 0.005:
        return f"equal to {name}"
    return f"{abs(change):.2f} points {'above' if change > 0 else 'below'} {name}, {other:.2f} %"


def _by_epoch(run: Run) -> Iterator[Element]:
    student = run.student
    top1 = run_values([("student", student), *run.others.items()], "test/top1")
    for images, split in (("validation", "val"), ("training", "train")):
        top1 += run_values([(f"student, {images} images", student)], f"{split}/top1")
    ends = [student.rows[0]["epoch"], student.epoch]
    top1 += [
        {"level": x.label, "run": x.label, "epoch": ends, "value": [x.top1] * 2}
        for x in run.teachers
        if x.top1 is not None and top1
    ]
    caption = "Values by epoch."
    if run.teachers:
        caption += " The teacher is frozen: its line is the accuracy of the weights that are used."
    yield from _figure("accuracy", "Accuracy by epoch", {"top-1 (%)": top1}, caption)
    names = sorted({name for row in student.rows for name in row if name.startswith("train/loss")})
    losses = run_values([("test", student)], "test/loss")
    for name in names:
        losses += run_values(
            [(name.replace("train/loss", "train").replace("/", " "), student)], name
        )
    full = memories.of_run(run.config, student.rows)
    caption = f"Values by epoch. {memories.describe(full, student.epoch)}".strip()
    marks = {f"memory of {m.name} full": m.full for m in full if m.full <= student.epoch}
    yield from _figure("losses", "Losses by epoch", {"loss": losses}, caption, marks)
    columns = ("learning_rate", "test/agreement", "images_per_second")
    panels = {label(column): run_values([("student", student)], column) for column in columns}
    yield from _figure("progress", "Progress of the run", panels)
    yield from _figure("proof", "Alignment with the teacher by epoch", alignment_panels(student))
    yield from _by_teacher(run)
    yield _values(run)


def _by_teacher(run: Run) -> Iterator[Table]:
    """Yields the table of losses and alignment with each of several teachers."""
    # Alignment is not computed in every epoch.
    newest = {name: value for row in run.student.rows for name, value in row.items()}
    names = {name.removesuffix("[0]") for name in newest if name.endswith("[0]")}
    titles = {name: label(name) for name in sorted(names) if name.startswith("test/loss/")}
    titles |= {f"proof/{x}": title for title, short in _ALIGNMENT.items() for x in short}
    titles = {name: title for name, title in titles.items() if name in names}
    if len(run.teachers) < 2 or not titles:
        return
    rows = []
    for i, teacher in enumerate(run.teachers):
        numbers = [newest.get(f"{name}[{i}]") for name in titles]
        cells = [Cell(f"{x:.4g}", x) if is_number(x) else Cell("\N{EN DASH}") for x in numbers]
        rows.append((Cell(teacher.label), Cell(teacher.model), *cells))
    caption = "Losses without their weights, and newest alignment of the student with each teacher."
    header = ("teacher", "network", *titles.values())
    yield Table("run-teachers", "Each teacher", header, tuple(rows), caption)


def _values(run: Run) -> Table:
    """Returns the table of all networks of the run."""
    columns = (
        *("test/top1", "best/top1", "best/epoch", "test/top5", "test/agreement"),
        *("val/top1", "train/top1"),
    )
    rows = [
        (
            *(Cell(x.label), _count(x.parameters), Cell("\N{EN DASH}"), _percent(x.top1)),
            *[Cell("\N{EN DASH}")] * (len(columns) - 1),
            Cell(x.source or "\N{EN DASH}"),
        )
        for x in run.teachers
    ]
    for name, record in [("student", run.student), *run.others.items()]:
        numbers = [record.rows[-1].get(column) for column in columns]
        cells = [
            _count(x or 0) if column == "best/epoch" else _percent(x)
            for column, x in zip(columns, numbers, strict=True)
        ]
        size, epoch = networks.student_of(record.folder).parameters, record.epoch
        inner = (record.folder / "checkpoints").relative_to(run.folder)
        source = str(run.location / inner.as_posix())
        rows.append((Cell(name), _count(size), _count(epoch), *cells, Cell(source)))
    names = {"best/epoch": "best epoch", "best/top1": "test top-1 (%), at the best epoch"}
    titles = [names.get(column) or label(column) for column in columns]
    header = ("run", "parameters", "epoch", *titles, "weights")
    caption = f"Single runs, without intervals. {best_epoch_caption(validated=run.is_validated)}"
    return Table("run-values", "Last epoch", header, tuple(rows), caption)


def _count(number: int) -> Cell:
    return Cell(f"{number:,}", number) if number else Cell("\N{EN DASH}")


def _percent(number: Any) -> Cell:
    return Cell(f"{number:.2f}", number) if is_number(number) else Cell("\N{EN DASH}")


def _figure(
    name: str,
    title: str,
    panels: Mapping[str, Values],
    caption: str = "Values by epoch.",
    marks: Mapping[str, float] | None = None,
) -> Iterator[Figure]:
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
            Chart(learning_curves(values, text, legend, marks), text if len(panels) > 1 else "")
            for text, values in panels.items()
        ),
        caption=caption,
        alt=f"{title}. At the end: {last}",
        legend=legend,
    )


def _patches(folder: pathlib.Path) -> Iterator[Picture]:
    """Yields the pictures of patches of a run, if it has any."""
    images = []
    for path in sorted((folder / "patches").glob("epoch-*.png")):
        content = base64.b64encode(path.read_bytes()).decode()
        epoch = path.stem.removeprefix("epoch-").lstrip("0")
        images.append((f"epoch {epoch}", f"data:image/png;base64,{content}"))
    if images:
        yield Picture(
            name="run-patches",
            title="Patches in colors",
            images=tuple(images),
            caption="Held-out images, and below them the patches of the student and of the teacher."
            " Colors are the first three principal components of the teacher's patches of these"
            " images; components of the student are mapped to them by least squares.",
            alt="Held-out images and the patches of student and teacher in colors",
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
