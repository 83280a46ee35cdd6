"""The page of one run: losses, accuracy beside its teacher's and alone's, and what was measured."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.page import courses, look, measured, proofs, study
from experiments.page.marks import Values
from experiments.page.parts import Cell, Chart, Facts, Figure, Page, Part, Section, Table
from experiments.page.results import label
from experiments.study import records
from rrd_jax import errors
from rrd_jax.run_folder import workdir

_NAME = "student"


@dataclasses.dataclass(frozen=True)
class Run:
    """A workdir.

    Attributes:
      folder: of the run.
      entry: it, as a study would have it.
      others: runs beside it, by what they are called: "teacher" and so on.
      config: its fields, by their paths.
      about: what it knows of itself: model.json.
      results: of results.json, once the whole job has ended.
    """

    folder: pathlib.Path
    entry: records.Entry
    others: Mapping[str, records.Entry]
    config: Mapping[str, Any]
    about: Mapping[str, Any]
    results: tuple[Mapping[str, Any], ...]


def read(folder: pathlib.Path) -> Run:
    """A run from its folder.

    Raises:
      InputError: it is not the workdir of a run, or its config is damaged.
    """
    if not (folder / "config.json").is_file():
        reason = (
            "is the folder of a study: pass --study"
            if (folder / records.PLAN).is_file()
            else ("is not the workdir of a run: it has no config.json")
        )
        raise errors.InputError(f"{folder} {reason}")
    try:
        content = errors.read_json(folder / "config.json")
        starts = content.pop("starts", {})
        config = workdir.flatten(content)
        epochs = int(config["train.epochs"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise errors.InputError(f"{folder / 'config.json'} is damaged: {error}") from error
    about, results = _json(folder / "model.json", {}), _json(folder / "results.json", [])
    about.setdefault("start", starts.get("latest", {}) if isinstance(starts, dict) else {})
    return Run(
        folder,
        _entry(folder, _NAME, epochs, int(config.get("seed", 0))),
        dict(_others(folder, about)),
        config,
        about,
        tuple(row for row in results if isinstance(row, dict)),
    )


def _json(path: pathlib.Path, otherwise: Any) -> Any:
    """A file that a page does without where it is missing or damaged."""
    try:
        content = errors.read_json(path)
    except (OSError, ValueError):
        return otherwise
    return content if isinstance(content, type(otherwise)) else otherwise


def _entry(folder: pathlib.Path, name: str, epochs: int, seed: int) -> records.Entry:
    return records.Entry(
        levels={},
        seed=seed,
        name=name,
        folder=folder,
        teachers=(),
        label=name,
        epochs=epochs,
        rows=records.rows(folder),
        error=records.error_of(folder),
    )


def _others(folder: pathlib.Path, about: Mapping[str, Any]) -> Iterator[tuple[str, records.Entry]]:
    teachers = (about.get("training") or {}).get("teachers") or []
    for name, homes in {
        "teacher": [folder / "teacher", *(_home(x.get("checkpoint", "")) for x in teachers[:1])],
        "student alone": [folder / "alone"],
        "student from random weights": [folder / "scratch"],
    }.items():
        for home in homes:
            entry = _entry(home, name, 0, 0)
            if entry.rows:
                yield name, entry
                break


def _home(checkpoint: str) -> pathlib.Path:
    """The folder of the run that weights come from."""
    path = pathlib.Path(checkpoint.partition("@")[0])
    return path.parent if path.name == "checkpoints" else path


def page(run: Run) -> Page:
    """The page of a run, as far as it has come."""
    source = study.source_of(_start(run))
    runs = measured.Runs("run", {_NAME: [run.entry]}, [_NAME], "")
    parts: list[Part] = []
    if run.entry.rows:
        parts += _epochs(run)
    parts += measured.parts([runs])
    parts.append(Facts("Configuration", {name: str(value) for name, value in run.config.items()}))
    training = run.about.get("training") or {}
    digests = {
        f"teacher {i}" if len(training.get("teachers") or []) > 1 else "teacher": " ".join(
            str(teacher.get(key, "")) for key in ("model", "digest")
        )
        for i, teacher in enumerate(training.get("teachers") or [])
    }
    details = source | digests | {"data": str(training.get("dataset", ""))}
    details = {name: text for name, text in details.items() if text}
    title = str(run.config.get("name") or run.folder.name)
    section = Section(
        "run", "How did the run go?", _answer(run), tuple(parts), details, listed=True
    )
    facts = [f"{run.config.get('method', '')}", f"seed {run.entry.seed}", run.entry.state]
    facts += [str(source.get("date", ""))[:10]]
    about = "; ".join(filter(None, [f"Student {_network(run)}", _data(training)]))
    return Page(
        kicker=f"Run {run.folder.name}",
        title=title,
        about=f"{about}.",
        facts=tuple(fact for fact in facts if fact),
        sections=(section,),
        source=details,
    )


def _start(run: Run) -> Mapping[str, Any]:
    return (run.about.get("training") or {}).get("start") or run.about["start"]


def _network(run: Run) -> str:
    model = run.about.get("model") or run.config.get("student.model", "")
    parameters = (run.about.get("training") or {}).get("parameters")
    return f"{model}, {parameters:,} parameters" if parameters else str(model)


def _data(training: Mapping[str, Any]) -> str:
    if not training.get("dataset"):
        return ""
    return f"{training.get('images', 0):,} training images of {training['dataset']}"


def _answer(run: Run) -> str:
    rows = run.entry.rows
    if not rows:
        return "No epoch has ended yet."
    last = rows[-1]
    words = [f"After epoch {last['epoch']} of {run.entry.epochs}, {_reached(last)}"]
    if "best/top1" in last:
        words.append(f"its best was {last['best/top1']:.2f} % in epoch {last.get('best/epoch')}")
    if "test/agreement" in last:
        words.append(f"{last['test/agreement']:.2f} % of images get the teacher's class")
    words += [f"the {name} has {top1:.2f} %" for name, top1 in _beside(run).items()]
    return "; ".join(words) + ". One run says nothing of noise (n = 1)."


def _reached(last: Mapping[str, Any]) -> str:
    """The figure that a run is tested by."""
    if "test/top1" in last:
        return f"test top-1 is {last['test/top1']:.2f} %"
    if "test/loss" in last:
        return f"the loss of held-out images is {last['test/loss']:.4f}"
    return "there is no figure of held-out images"


def _beside(run: Run) -> dict[str, float]:
    """The last top-1 of the teacher, and of the student's other runs."""
    found = {str(row.get("label")): row.get("top1") for row in run.results}
    for name, entry in run.others.items():
        found[name] = entry.rows[-1].get("test/top1")
    names = ("teacher", "student alone", "student from random weights")
    return {name: found[name] for name in names if courses.is_number(found.get(name))}


def _epochs(run: Run) -> Iterator[Part]:
    entry = run.entry
    runs = {_NAME: entry} | dict(run.others)
    top1 = [
        row
        for name, other in runs.items()
        for row in courses.run_values([(name, other)], "test/top1")
    ]
    train = courses.run_values([("student, training images", entry)], "train/top1")
    if top1 + train:
        yield _lines(
            "accuracy",
            "Accuracy by epoch",
            {label("test/top1"): top1 + train},
            _answer(run),
            "Test images; of the student also training images.",
        )
    parts = sorted({name for row in entry.rows for name in row if name.startswith("train/loss")})
    losses = [row for name in parts for row in courses.run_values([(_part(name), entry)], name)]
    losses += courses.run_values([("test loss", entry)], "test/loss")
    last = ", ".join(
        f"{name.removeprefix('train/')} {entry.rows[-1].get(name, 0):.3g}" for name in parts
    )
    yield _lines(
        "losses",
        "Loss and its parts",
        {"loss": losses},
        f"At the end: {last}.",
        "Means of each epoch over training images, parts with their weights; test images apart.",
    )
    panels = {}
    for column in ("learning_rate", "test/agreement", "images_per_second"):
        if values := courses.run_values([(_NAME, entry)], column):
            panels[label(column)] = values
    rates = [row["images_per_second"] for row in entry.rows if "images_per_second" in row]
    speed = (
        f" Throughput: {sorted(rates)[len(rates) // 2]:,.0f} images/s in the median epoch."
        if rates
        else ""
    )
    yield _lines("course", "Course of the run", panels, speed, f"The student, by epoch.{speed}")
    if panels := proofs.panels(entry):
        yield _lines(
            "proof",
            "What its embeddings have of the teacher's",
            panels,
            "",
            "Held-out images, by epoch; the teacher and random weights where they have the figure.",
        )
    yield from filter(None, [proofs.table(entry)])
    yield _table(run)


def _part(column: str) -> str:
    """A part of the loss, as its line is called."""
    return "train loss" if column == "train/loss" else column.removeprefix("train/loss/")


def _lines(
    name: str, title: str, panels: Mapping[str, Values], numbers: str, caption: str
) -> Figure:
    levels = dict.fromkeys(row["level"] for values in panels.values() for row in values)
    styles = look.styles(levels)
    styles |= {"teacher": measured.TEACHER} if "teacher" in styles else {}
    made = tuple(
        Chart(
            courses.epochs(
                values, text, styles, None if text == "loss" else courses.late_domain(values, text)
            ),
            text if len(panels) > 1 else "",
        )
        for text, values in panels.items()
    )
    return Figure(
        name=f"run-{name}",
        title=title,
        charts=made,
        caption=caption,
        alt=f"{title}. {numbers}",
        legend=styles,
    )


def _table(run: Run) -> Table:
    rows = []
    for name, entry in ({_NAME: run.entry} | dict(run.others)).items():
        last = entry.rows[-1]
        cells = [Cell(name), Cell(str(last["epoch"]), last["epoch"])]
        for column in ("test/top1", "best/top1", "test/top5", "test/agreement", "train/top1"):
            value = last.get(column)
            cells.append(Cell(f"{value:.2f}", value) if courses.is_number(value) else Cell("–"))
        rows.append(tuple(cells))
    header = ("run", "epoch", "test top-1 (%), last epoch", "best epoch", "test top-5 (%)")
    return Table(
        "run-figures",
        "Last epoch",
        (*header, "agreement with the teacher (%)", "train top-1 (%)"),
        tuple(rows),
        "One run each: no interval. The best epoch was picked by the test images.",
        frozenset(range(1, 7)),
    )
