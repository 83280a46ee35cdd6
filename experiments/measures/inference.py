"""Inference with the networks of a finished run on its test images."""

import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Iterable

import numpy as np

from experiments.measures.outputs import NetworkOutputs, RunOutputs
from experiments.measures.thumbnails import thumbnails
from rrd_jax import checkpoints, data, errors, exports, library, user_paths
from rrd_jax import config as configs
from rrd_jax.data.model_info import ModelInfo
from rrd_jax.evaluation import predictions
from rrd_jax.library import run_teachers, weights_loader
from rrd_jax.teacher import class_matching
from rrd_jax.terminal import console
from rrd_jax.weights import files

_BATCH_SIZE = 500
# Above this size, only thumbnails are kept in memory.
_IMAGE_BYTES = 5e8


@dataclasses.dataclass(frozen=True)
class _Network:
    """A network; networks with equal weights and preprocessing compare equal.

    Attributes:
      digest: a digest of the weights.
      preprocessing: the preprocessing of images, as text.
      exportable: the network in float32.
    """

    digest: str
    preprocessing: str
    exportable: exports.Exportable = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True)
class _TestImages:
    """The test split of a data set; compared by the identity of the data set object."""

    identity: int
    dataset: data.Dataset = dataclasses.field(compare=False)

    def __len__(self) -> int:
        return len(self.dataset.test)

    def batches(self) -> Iterable[dict[str, np.ndarray]]:
        return self.dataset.test.test_batches(predictions.even_batch(len(self), _BATCH_SIZE, 1))


def run_outputs(
    folder: pathlib.Path,
    teacher: pathlib.Path | None = None,
    dataset: data.Dataset | None = None,
) -> RunOutputs:
    """Computes the outputs of a finished run's networks at its newest checkpoint.

    A teacher's outputs are computed once per process for all runs on the same images.

    Args:
      folder: a workdir; RUN@best, RUN@last and RUN@STEP select other checkpoints.
      teacher: weights of the teacher to compare with, as for config.teacher.checkpoint; None for
        the run's teacher. If the run's teacher is missing, or the run has several teachers, a
        warning is printed, and the teacher of the outputs is None.
      dataset: an open data set that replaces the run's data set.

    Raises:
      InputError: the folder is not a run, a checkpoint is damaged, or the images are missing.
    """
    folder = user_paths.path_of(os.fspath(folder))
    fields = weights_loader.read_run_fields(files.split(folder)[0])
    if fields is None:
        raise errors.InputError(
            f"{folder} is not the workdir of a run; pass a folder with a config.json"
        )
    student = _network(library.load(folder))
    if dataset is None:
        if not fields["data"]["name"]:
            raise errors.InputError(
                f"the run in {folder} got its images from Python; pass them as dataset="
            )
        dataset = _open_dataset(configs.source_of(fields))
    about = student.exportable.about
    network = (about.num_classes, about.preprocessing.image_shape)
    images = (dataset.num_classes, tuple(dataset.image_shape))
    if network != images:
        form = "{} classes and images of {}"
        raise errors.InputError(
            f"the network in {folder} is for {form.format(*network)}, but the test split has"
            f" {form.format(*images)}; pass a data set with the network's shape"
        )
    other = _teacher(folder, teacher and pathlib.Path(teacher))
    split = _TestImages(id(dataset), dataset)
    images, labels = _images(split)
    return RunOutputs(
        images=images,
        labels=labels,
        class_names=dataset.class_names or tuple(map(str, range(dataset.num_classes))),
        student=_outputs(student, split),
        teacher=_outputs(other, split) if other else None,
        same_classes=not other or _same_classes(other.exportable.about, about),
        origin={
            "student": student.digest,
            "teacher": other.digest if other else "",
            "data": f"{dataset.version}, {len(labels)} images",
        },
    )


def _network(loaded: library.Loaded | library.Predictor) -> _Network:
    if not isinstance(loaded, library.Loaded):
        raise errors.InputError(
            f"'{loaded.name}' was exported for {loaded.runtime}; pass the workdir of the run"
        )
    network = exports.make_exportable(loaded.network, loaded.variables, loaded.about, loaded.terms)
    digest = checkpoints.digest(loaded.variables)
    return _Network(digest, repr(loaded.about.preprocessing), network)


def _teacher(folder: pathlib.Path, path: pathlib.Path | None) -> _Network | None:
    """Loads the teacher of a path, or of the run.

    Returns None if the run has no teacher, a missing teacher, or several teachers.
    """
    listed = run_teachers.teachers_of(folder)
    if path is not None:
        # A file of weights does not contain the name of its model.
        model = listed[0].model if listed else ""
        listed = [run_teachers.Teacher(model, path, 1.0)]
    if not listed:
        return None
    if len(listed) > 1:
        console.warn(
            f"{folder} is measured without its {len(listed)} teachers; pass one as teacher="
        )
        return None
    try:
        loaded = run_teachers.load_single(folder, listed[0])
    except errors.InputError as error:
        if path is not None:
            raise
        console.warn(f"{folder} is measured without its teacher: {error}")
        return None
    if not loaded.num_classes:
        console.note(f"{folder} is measured without its teacher, which has no classifier")
        return None
    return _network(loaded)


@functools.lru_cache(maxsize=2)
def _open_dataset(source: data.Source) -> data.Dataset:
    return data.load(source)


def _same_classes(teacher: ModelInfo, student: ModelInfo) -> bool:
    match = class_matching.match(
        teacher.class_names, teacher.num_classes, student.class_names, student.num_classes
    )
    return match.compares and teacher.num_classes == student.num_classes


@functools.lru_cache(maxsize=6)
def _outputs(network: _Network, images: _TestImages) -> NetworkOutputs:
    about = network.exportable.about
    if not about.num_classes:
        raise errors.InputError(
            f"'{about.model}' has no classifier, whose predictions the measures compare; the"
            " metrics of the run contain its alignment"
        )
    parts = [network.exportable(batch["image"]) for batch in images.batches()]
    logits = np.concatenate([part["logits"] for part in parts])[: len(images)]
    if not np.isfinite(logits).all():
        raise errors.InputError(
            f"the logits of '{about.model}' are not finite on the test split;"
            " check its weights, which are too large or damaged"
        )
    embedding = np.zeros((len(logits), 0), np.float32)
    if "embedding" in parts[0]:
        embedding = np.concatenate([part["embedding"] for part in parts])[: len(logits)]
    return NetworkOutputs(logits, embedding.reshape(len(logits), -1))


@functools.lru_cache(maxsize=2)
def _images(split: _TestImages) -> tuple[np.ndarray, np.ndarray]:
    """Returns all images and labels of a split; for a large split, thumbnails."""
    total = len(split)
    size = total * math.prod(split.dataset.image_shape)
    reduce = thumbnails if size > _IMAGE_BYTES else np.asarray
    parts = [(reduce(batch["image"]), batch["label"]) for batch in split.batches()]
    images, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    # The last batch is padded.
    return images[:total], labels[:total].astype(np.int32)
