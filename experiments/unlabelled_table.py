"""What students without labels are worth with few labels, from the runs of studies/unlabelled.py.

    python -m experiments.unlabelled_table --study=runs/study-unlabelled_digits

Of each student, of the teacher and of a student with random weights: votes of the ten nearest
labelled images and a linear probe on embeddings, with 1, 10 and 100 labels of each class, and what
fine-tuning makes of these labels. The labels are those that the fine-tuned run of the same seed
has. What is computed is kept in the runs' folders; runs that are not finished are left out.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from absl import app, flags

from experiments.study import records, statistics
from rrd_jax import config as configs
from rrd_jax import data, errors, library, networks, parallel
from rrd_jax.data import stratified
from rrd_jax.data.source import Source
from rrd_jax.evaluation import neighbours
from rrd_jax.library import loading, teachers
from rrd_jax.run_folder import report
from rrd_jax.teacher import labelled
from rrd_jax.terminal import cli, console, tables

_STUDY = flags.DEFINE_string("study", "", "The --workdir of the study.")
_LABELS = (1, 10, 100)
_K = 10
_NEIGHBOURS = 20
_BATCH = 250
_FILE = "few_labels.json"
_RANDOM, _TEACHER = "random weights", "teacher"
Cells = dict[tuple[str, str], dict[int, float]]  # row and column -> seed -> top-1


def main(argv: Sequence[str]) -> None:
    """Prints the table of a study."""
    del argv

    def show():
        if not _STUDY.value:
            raise errors.InputError("--study is missing: the --workdir of a study")
        record = records.read(pathlib.Path(_STUDY.value))
        console.say(f"{record.about}\n")
        console.print_table(*table(cells(record)))

    cli.guard(show, stopped="stopped; what was computed is in the folders of the runs")


def cells(record: records.Record) -> Cells:
    """The figures of a study, by row and column."""
    grids = {grid.name: grid for grid in record.grids}
    found: Cells = {}
    first = next(iter(grids["students"].cells()))  # its runs have the teacher and the images
    for (method,), entries in grids["students"].cells().items():
        for entry in entries:
            if not entry.finished:
                continue
            whose = {method: "student"}
            if (method,) == first:
                whose |= {_RANDOM: "random", _TEACHER: "teacher"}
            for row, role in whose.items():
                for column, top1 in kept(entry.folder, role, entry.seed).items():
                    found.setdefault((row, column), {})[entry.seed] = top1
    for (labels,), entries in grids["from_scratch"].cells().items():
        found[_RANDOM, f"tuned {labels}"] = records.figures(entries, "test/top1")
    for (method, labels), entries in grids["fine_tuned"].cells().items():
        found[method, f"tuned {labels}"] = records.figures(entries, "test/top1")
    return found


def kept(folder: pathlib.Path, role: str, seed: int) -> dict[str, float]:
    """Figures of `measure`, read from a run's folder or written there."""
    path = folder / _FILE
    everything = errors.read_json(path) if path.exists() else {}
    if role not in everything:
        everything[role] = measure(folder, role, seed)
        report.write_json(path, everything)
    return everything[role]


def measure(folder: pathlib.Path, role: str, seed: int) -> dict[str, float]:
    """Test top-1 by few labels, and the neighbours that are in common with the teacher.

    Args:
      folder: of a student without labels.
      role: "student", "teacher", or "random" for a student with random weights.
      seed: of these, and of the choice of labels.
    """
    dataset = _opened(source := _source(folder))
    (teacher,) = teachers.teachers_of(folder)
    train, test = of_teacher = _of_teacher(teacher.path.resolve(), source)
    if role != "teacher":
        student = library.load(folder)
        train, test = _embed(_random(student, seed) if role == "random" else student, dataset)
    labels, truth, count = dataset.train.labels, dataset.test.labels, dataset.num_classes
    found = {}
    for number in _LABELS:
        places = stratified.of_each_class(labels, np.full(count, number), seed)
        given = (test, truth, train[places], labels[places], count, parallel.make_mesh())
        top1 = labelled.of_embeddings(*given, ks=(_K,))
        found |= {f"knn {number}": top1[f"knn_{_K}"], f"probe {number}": top1["probe"]}
    if role != "teacher":
        shares = neighbours.agreement(test, of_teacher[1], _NEIGHBOURS)
        found["neighbours"] = 100 * float(shares.mean())
    return found


def table(found: Cells) -> tables.Table:
    """Header and rows: mean and deviation over the seeds of each figure."""
    columns = {"neighbours": f"{_NEIGHBOURS} nearest in common"}
    for kind, words in {"knn": f"{_K}-NN", "probe": "probe", "tuned": "fine-tuned"}.items():
        columns |= {f"{kind} {number}": f"{words}, {number} a class" for number in _LABELS}
    rows = sorted({row for row, _ in found}, key=_place)
    cells = [[row, *(_shown(found.get((row, column), {})) for column in columns)] for row in rows]
    return ("student by", *columns.values()), cells


def _place(row: str) -> tuple[int, str]:
    return {_RANDOM: 0, _TEACHER: 2}.get(row, 1), row


def _shown(figures: Mapping[int, float]) -> str:
    summary = statistics.summarize(figures)
    if summary.mean is None:
        return "-"
    return f"{summary.mean:.1f}" + ("" if summary.std is None else f" +- {summary.std:.1f}")


def _source(folder: pathlib.Path) -> Source:
    """The images of a run, with their labels."""
    return dataclasses.replace(configs.source_of(loading.fields_of(folder)), use_labels=True)


@functools.lru_cache(maxsize=1)
def _opened(source: Source) -> data.Dataset:
    return data.load(source)


@functools.lru_cache(maxsize=1)
def _of_teacher(weights: pathlib.Path, source: Source) -> tuple[np.ndarray, np.ndarray]:
    return _embed(library.load(weights), _opened(source))


def _embed(network: library.Loaded, dataset: data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of the training images and of the test images."""
    splits = (dataset.train, dataset.test)
    return tuple(network.embed(split.images, batch_size=_BATCH) for split in splits)


def _random(student: library.Loaded, seed: int) -> library.Loaded:
    """A student that has learnt nothing."""
    key = jax.random.key(seed)
    variables = networks.init(student.network, key, student.image_shape)
    return dataclasses.replace(student, variables=variables)


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
