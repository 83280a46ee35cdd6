"""Loads the teachers of a run, with the preprocessing and classes of the student."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rrd_jax import config as configs
from rrd_jax import errors, networks, user_paths
from rrd_jax.data.model_info import ModelInfo, Preprocessing
from rrd_jax.data.source import HOST_AUGMENTATIONS
from rrd_jax.library import heads, weights_loader
from rrd_jax.library.loaded_network import Loaded
from rrd_jax.library.predictor import Predictor
from rrd_jax.library.quiet import quietly
from rrd_jax.teacher import class_matching, class_vectors, preprocessing, probe, wrappers
from rrd_jax.training.choices import NetworkChoice, TeachingChoice
from rrd_jax.weights import exported, files


class Teacher(NamedTuple):
    """A teacher of a run.

    Attributes:
      model: name of the network.
      path: path of the weights.
      weight: weight of the logits in the mean of several teachers.
      teaching: preprocessing and classifier.
    """

    model: str
    path: pathlib.Path
    weight: float
    teaching: TeachingChoice = TeachingChoice()


@quietly
def load_teacher(workdir: str | pathlib.Path) -> Predictor:
    """Loads the teacher of a run; several teachers are combined by the weighted mean of logits.

    Images are preprocessed as for the student, and classes are matched by name as in training.

    Args:
      workdir: the folder of the run.

    Raises:
      InputError: there is no run, the run has no teacher, the weights are missing, or several
        teachers differ in their classes.
    """
    folder, _ = files.split(workdir)
    if weights_loader.read_run_fields(folder) is None:
        raise errors.InputError(f"{folder} is not the workdir of a run, so it has no teacher")
    teachers = teachers_of(workdir)
    if not teachers:
        raise errors.InputError(f"the run in {folder} has no teacher")
    loaded = [load_single(workdir, teacher) for teacher in teachers]
    for network, teacher in zip(loaded, teachers, strict=True):
        if not network.num_classes:
            raise errors.InputError(
                f"the teacher in {teacher.path} has no classifier, so it cannot predict classes;"
                " for embeddings, use rrd_jax.load(FILE).embed(IMAGES)"
            )
    predictors = [network.predictor for network in loaded]
    if len(predictors) == 1:
        return predictors[0]
    return weighted_mean(predictors, [teacher.weight for teacher in teachers])


def teachers_of(workdir: str | pathlib.Path) -> list[Teacher]:
    """Lists the teachers of a run; returns an empty list for a path without a run."""
    folder, _ = files.split(workdir)
    fields = weights_loader.read_run_fields(folder) or {}
    sections = fields.get("teacher") or []
    sections = sections if isinstance(sections, list) else [sections]
    # As in the job, teachers without a network are ignored.
    sections = [teacher for teacher in sections if teacher.get("model")]
    return [
        Teacher(
            teacher["model"],
            _path(teacher) or folder / f"teacher{_suffix(number)}",
            teacher.get("weight", 1.0),
            configs.teaching_of(fields, number - 1),
        )
        for number, teacher in enumerate(sections, 1)
    ]


@quietly
def load_single(workdir: str | pathlib.Path, teacher: Teacher) -> Loaded:
    """Loads one teacher of a run, with the preprocessing of the student.

    Raises:
      InputError: the weights are missing or damaged.
    """
    folder, _ = files.split(workdir)
    path, data = teacher.path, weights_loader.read_run_fields(folder)["data"]
    home, _ = files.split(path)
    if not home.exists():
        raise errors.InputError(f"the teacher of the run in {folder} is missing from {path}")
    student = weights_loader.read_model_info(folder)
    separate = _separate_preprocessing(teacher, student)
    options = {"mean": tuple(data["mean"]), "std": tuple(data["std"])}
    if exported.weights_file(home).is_file():
        # A file of weights may be for another image size.
        options |= {"network": teacher.model, "image_size": data["image_size"]}
        options["resize"] = data["resize"] if data["augment"] in HOST_AUGMENTATIONS else None
    if separate:
        options |= {"image_size": separate.image_size, "resize": None}
    network = weights_loader.load(path, **options)
    about = network.about
    if student and student.preprocessing:
        about = dataclasses.replace(about, preprocessing=student.preprocessing)
    if student and not about.class_names and student.num_classes == about.num_classes:
        about = dataclasses.replace(about, class_names=student.class_names)
    network = dataclasses.replace(network, about=about)
    if separate:
        wrapped_network = preprocessing.wrap(network.network, separate, student.preprocessing)
        shape = student.preprocessing.image_shape
        network = dataclasses.replace(network, network=wrapped_network, image_shape=shape)
    if teacher.teaching.classifier and student:
        return _classified(network, teacher.teaching, student, folder)
    return with_student_classes(network, student)


def _separate_preprocessing(teacher: Teacher, student: ModelInfo | None) -> Preprocessing | None:
    """Returns the preprocessing of a teacher; None if unknown or equal to the student's."""
    if student is None or student.preprocessing is None:
        return None
    stored = files.preprocessing_of(teacher.path, teacher.model)
    return preprocessing.for_teacher(teacher.teaching, stored, student.preprocessing)


def _classified(
    network: Loaded, teaching: TeachingChoice, student: ModelInfo, folder: pathlib.Path
) -> Loaded:
    """Returns a teacher with the probe or the class vectors of a run as its classifier."""
    shape, count = student.preprocessing.image_shape, student.num_classes
    embedding = networks.summarize(network.network, shape).outputs.embedding
    width = 0 if isinstance(embedding, tuple) else embedding.shape[-1]
    if teaching.probe:
        classified = wrappers.Probed(network.network, count)
        probe_folder = probe.cache_folder(folder, teaching.label)
        name, value = wrappers.PROBE, probe.read(probe_folder, width, count)
    else:
        value, name = (
            class_vectors.read(pathlib.Path(teaching.class_vectors), student),
            wrappers.VECTORS,
        )
        source = "embedding" if value.shape[-1] == width else "logits"
        scale = teaching.class_vectors_scale
        classified = wrappers.ZeroShot(network.network, value.shape, source, scale)
    return heads.with_classifier(network, classified, name, value, count, student.class_names)


def with_student_classes(network: Loaded, student: ModelInfo | None) -> Loaded:
    """Reorders the classes of a teacher like those of the student, if they match by name.

    Args:
      network: the teacher; `about.preprocessing` must be set.
      student: the description of the student; None if unknown.
    """
    about = network.about
    if student is None:
        return network
    names, count = student.class_names, student.num_classes
    order = class_matching.match(about.class_names, about.num_classes, names, count).order
    if order is None:
        return network
    choice = NetworkChoice(about.model, jnp.float32, options=about.options)
    reordered = choice.create(count)
    axes = choice.class_axes(reordered, about.preprocessing.image_shape)
    return dataclasses.replace(
        network,
        network=reordered,
        variables=class_matching.with_classes(network.variables, axes, order, count),
        num_classes=count,
        about=dataclasses.replace(about, class_names=names, num_classes=count),
    )


def _path(teacher: Mapping[str, Any]) -> pathlib.Path | None:
    """Returns the path of a teacher's checkpoint; None if the run trained the teacher."""
    checkpoint = "" if teacher.get("fine_tune") else teacher.get("checkpoint", "")
    return user_paths.path_of(checkpoint) if checkpoint else None


def _suffix(number: int) -> str:
    return str(number) if number > 1 else ""


def weighted_mean(members: Sequence[Predictor], weights: Sequence[float]) -> Predictor:
    """Returns a predictor of the weighted mean of the logits of several networks.

    Raises:
      InputError: the networks differ in their classes.
    """
    first = members[0].about
    for member in members[1:]:
        same_count = member.about.num_classes == first.num_classes
        if not same_count or member.about.class_names != first.class_names:
            raise errors.InputError(
                f"the teachers '{first.model}' and '{member.about.model}' differ in their classes;"
                " use a single teacher, with --workdir=TEACHER_FOLDER"
            )
    shares = np.asarray(weights, np.float32) / np.float32(sum(weights))

    def compute(images: np.ndarray) -> dict[str, np.ndarray]:
        outputs = (member.compute(images)["logits"] for member in members)
        return {"logits": sum(w * logits for w, logits in zip(shares, outputs, strict=True))}

    name = "+".join(member.about.model for member in members)
    about = dataclasses.replace(first, model=name, training={}, metrics={})
    return Predictor(compute, about, members[0].runtime, members[0].devices)
