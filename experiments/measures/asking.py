"""Asks the networks of a run what they say of its test images."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.measures import sampling
from experiments.measures.subject import Answers, Subject
from rrd_jax import checkpoints, data, errors, exports, library
from rrd_jax import config as configs
from rrd_jax.data.model_info import ModelInfo
from rrd_jax.evaluation import predictions, rows
from rrd_jax.library import run_teachers, weights_loader
from rrd_jax.teacher import class_matching
from rrd_jax.terminal import console
from rrd_jax.weights import files

_BATCH = 500  # images at once
_IMAGE_BYTES = 5e8  # above it, thumbnails are kept alone


class _Network(NamedTuple):
    """A network that can be asked.

    Attributes:
      exportable: it, in float32.
      digest: of its weights.
      weight: of its logits among those of several teachers.
    """

    exportable: exports.Exportable
    digest: str
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class _Question:
    """What is asked: the same key is answered once.

    Attributes:
      key: of networks and images.
      ask: computes the answer.
    """

    key: Hashable
    ask: Callable[[], Any] = dataclasses.field(compare=False)


def of_run(
    folder: pathlib.Path, teacher: pathlib.Path | None, dataset: data.Dataset | None
) -> Subject:
    """See `subject.of_run`."""
    fields = weights_loader.fields_of(files.split(folder)[0])
    if fields is None:
        raise errors.InputError(f"{folder} is no workdir of a run: there is nothing to measure")
    student = _network(library.load(folder))
    dataset = dataset or _dataset_of(fields, folder)
    about = student.exportable.about
    _check(about, dataset, folder)
    members = _teachers(folder, teacher)
    images, labels = _answered(_Question(("images", id(dataset)), lambda: _images(dataset)))
    names = dataset.class_names or tuple(map(str, range(dataset.num_classes)))
    origin = {
        "student": student.digest,
        "teacher": "+".join(member.digest for member in members),
        "data": f"{dataset.version}, {len(labels)} images",
    }
    return Subject(
        images,
        labels,
        names,
        _answers(student, dataset),
        _as_one(members, dataset) if members else None,
        all(_compares(member.exportable.about, about) for member in members),
        origin,
    )


def _network(loaded: library.Loaded | library.Predictor, weight: float = 1.0) -> _Network:
    if not isinstance(loaded, library.Loaded):
        raise errors.InputError(
            f"'{loaded.name}' was exported for {loaded.runtime}: name the run that it is from"
        )
    network = exports.exportable(loaded.network, loaded.variables, loaded.about, loaded.terms)
    return _Network(network, checkpoints.digest(loaded.variables), weight)


def _teachers(folder: pathlib.Path, given: pathlib.Path | None) -> list[_Network]:
    """The teacher that is given; or those of the run, none if one of them is missing."""
    listed = run_teachers.teachers_of(folder)
    if given is not None:
        model = listed[0].model if listed else ""  # which a file alone does not say
        listed = [run_teachers.Teacher(model, given, 1.0)]
    try:
        loaded = [run_teachers.load_single(folder, t) for t in listed]
        if not all(network.num_classes for network in loaded):
            console.note(f"{folder} is measured without its teacher, which has no classifier")
            return []
        return [_network(network, t.weight) for network, t in zip(loaded, listed, strict=True)]
    except errors.InputError as error:
        if given is not None:
            raise
        console.warn(f"{folder} is measured without its teacher: {error}")
        return []


def _dataset_of(fields: dict[str, Any], folder: pathlib.Path) -> data.Dataset:
    if not fields["data"]["name"]:
        raise errors.InputError(
            f"the run in {folder} was given its images in Python: pass dataset=, the same"
        )
    return _opened(configs.source_of(fields))


@functools.lru_cache(maxsize=2)
def _opened(source: data.Source) -> data.Dataset:
    return data.load(source)


@functools.lru_cache(maxsize=6)  # the images and the teachers of a study's runs
def _answered(question: _Question) -> Any:
    return question.ask()


def _check(about: ModelInfo, dataset: data.Dataset, folder: pathlib.Path) -> None:
    there = (about.num_classes, about.preprocessing.image_shape)
    here = (dataset.num_classes, tuple(dataset.image_shape))
    if there != here:
        form = "{} classes and images of {}"
        raise errors.InputError(
            f"the network in {folder} is for {form.format(*there)}, but the test split has"
            f" {form.format(*here)}"
        )


def _compares(teacher: ModelInfo, student: ModelInfo) -> bool:
    found = class_matching.match(
        teacher.class_names, teacher.num_classes, student.class_names, student.num_classes
    )
    return found.compares and teacher.num_classes == student.num_classes


def _as_one(members: Sequence[_Network], dataset: data.Dataset) -> Answers:
    """Several teachers as one; a single one as it is."""
    key = tuple((member.digest, member.weight) for member in members)
    form = members[0].exportable.about.preprocessing
    question = _Question((key, form, id(dataset)), lambda: _joined(members, dataset))
    return _answered(question)


def _joined(members: Sequence[_Network], dataset: data.Dataset) -> Answers:
    answers = [_answers(member, dataset) for member in members]
    if len(answers) == 1:
        return answers[0]
    sizes = {answer.logits.shape[1] for answer in answers}
    if len(sizes) > 1:
        raise errors.InputError(
            f"the teachers have {' and '.join(map(str, sorted(sizes)))} classes, and so no mean:"
            " name one of them as teacher"
        )
    shares = np.array([member.weight for member in members], np.float32)
    shares /= shares.sum()
    logits = sum(share * answer.logits for share, answer in zip(shares, answers, strict=True))
    # Unit vectors times the roots of their shares: inner products are the mean of the cosines.
    units = [np.sqrt(s) * rows.unit(a.embedding) for s, a in zip(shares, answers, strict=True)]
    return Answers(logits, np.concatenate(units, axis=1))


def _answers(network: _Network, dataset: data.Dataset) -> Answers:
    parts = [network.exportable(batch["image"]) for batch in _batches(dataset)]
    logits = np.concatenate([part["logits"] for part in parts])[: len(dataset.test)]
    if not np.isfinite(logits).all():
        raise errors.InputError(
            f"the logits of '{network.exportable.about.model}' are not finite for images of the"
            " test split: its weights are too large, or damaged"
        )
    embedding = np.zeros((len(logits), 0), np.float32)
    if "embedding" in parts[0]:
        embedding = np.concatenate([part["embedding"] for part in parts])[: len(logits)]
    return Answers(logits, embedding.reshape(len(logits), -1))


def _images(dataset: data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels of the test split; thumbnails of those, where they are large."""
    size = len(dataset.test) * math.prod(dataset.image_shape)
    shown = sampling.thumbnails if size > _IMAGE_BYTES else np.asarray
    parts = [(shown(batch["image"]), batch["label"]) for batch in _batches(dataset)]
    images, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    total = len(dataset.test)  # the last batch is filled up
    return images[:total], labels[:total].astype(np.int32)


def _batches(dataset: data.Dataset) -> Iterable[dict[str, np.ndarray]]:
    size = predictions.even_batch(len(dataset.test), _BATCH, 1)
    return dataset.test.test_batches(size)
