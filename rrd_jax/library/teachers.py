"""The teacher of a run, to be asked as its student is."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rrd_jax import config as configs
from rrd_jax import errors, networks
from rrd_jax.data.model_info import ModelInfo, Preprocessing
from rrd_jax.data.source import HOST_AUGMENTATIONS
from rrd_jax.library import loading
from rrd_jax.library.loaded import Loaded
from rrd_jax.library.predicting import Predictor
from rrd_jax.library.quiet import quietly
from rrd_jax.teacher import classes, probe, seeing, vectors, wrapped
from rrd_jax.training.choices import NetworkChoice, TeachingChoice
from rrd_jax.weights import exported, files


class Teacher(NamedTuple):
    """A teacher of a run.

    Attributes:
      model: its network.
      path: of its weights.
      weight: of its logits.
      teaching: how it sees images, and where its logits come from.
    """

    model: str
    path: pathlib.Path
    weight: float
    teaching: TeachingChoice = TeachingChoice()


@quietly
def load_teacher(workdir: str | pathlib.Path) -> Predictor:
    """The teacher of a run, or its several teachers as one, whose logits are their weighted mean.

    Their images are scaled and normalised as the student's, and their classes are matched by name
    where training did so.

    Args:
      workdir: of the run.

    Raises:
      InputError: it is no run, had no teacher, or its weights are not there any more; or several
        teachers differ in their classes.
    """
    folder, _ = files.split(pathlib.Path(workdir))
    if loading.fields_of(folder) is None:
        raise errors.InputError(f"{folder} is no workdir of a run, and so has no teacher")
    teachers = teachers_of(workdir)
    if not teachers:
        raise errors.InputError(f"the run in {folder} had no teacher")
    loaded = [load_single(workdir, teacher) for teacher in teachers]
    for network, teacher in zip(loaded, teachers, strict=True):
        if not network.num_classes:
            raise errors.InputError(
                f"the teacher in {teacher.path} has no classifier, and so predicts nothing;"
                " rrd_jax.load(FILE).embed(IMAGES) gives its embeddings"
            )
    single = [network.predictor for network in loaded]
    if len(single) == 1:
        return single[0]
    return as_one(single, [teacher.weight for teacher in teachers])


def teachers_of(workdir: str | pathlib.Path) -> list[Teacher]:
    """The teachers that a run had; none for anything else."""
    folder, _ = files.split(pathlib.Path(workdir))
    fields = loading.fields_of(folder) or {}
    listed = fields.get("teacher") or []
    listed = listed if isinstance(listed, list) else [listed]
    # Numbered as the job numbers them: those without a network are none.
    listed = [teacher for teacher in listed if teacher.get("model")]
    return [
        Teacher(
            teacher["model"],
            pathlib.Path(_checkpoint(teacher) or folder / f"teacher{_suffix(number)}"),
            teacher.get("weight", 1.0),
            configs.teaching_of(fields, number - 1),
        )
        for number, teacher in enumerate(listed, 1)
    ]


@quietly
def load_single(workdir: str | pathlib.Path, teacher: Teacher) -> Loaded:
    """One teacher of a run, with the student's images.

    Raises:
      InputError: its weights are not there any more, or damaged.
    """
    folder, _ = files.split(pathlib.Path(workdir))
    path, images = teacher.path, loading.fields_of(folder)["data"]
    home, _ = files.split(path)
    if not home.exists():
        raise errors.InputError(f"the teacher of the run in {folder} is not in {path} any more")
    student = loading.about_of(folder)
    seen = _seen(teacher, student)
    wanted = {"mean": tuple(images["mean"]), "std": tuple(images["std"])}
    if exported.weights_of(home).is_file():  # it is no run, and may be for images of another size
        wanted |= {"network": teacher.model, "image_size": images["image_size"]}
        wanted["resize"] = images["resize"] if images["augment"] in HOST_AUGMENTATIONS else None
    if seen:
        wanted |= {"image_size": seen.image_size, "resize": None}
    network = loading.load(path, **wanted)
    about = network.about
    if student and student.preprocessing:
        about = dataclasses.replace(about, preprocessing=student.preprocessing)
    if student and not about.class_names and student.num_classes == about.num_classes:
        about = dataclasses.replace(about, class_names=student.class_names)
    network = dataclasses.replace(network, about=about)
    if seen:
        shown = seeing.wrap(network.network, seen, student.preprocessing)
        shape = student.preprocessing.image_shape
        network = dataclasses.replace(network, network=shown, image_shape=shape)
    if teacher.teaching.classifier and student:
        return _classified(network, teacher.teaching, student, folder)
    return matched(network, student)


def _seen(teacher: Teacher, student: ModelInfo | None) -> Preprocessing | None:
    """What a teacher sees; None where that is what its student sees, as far as is known."""
    if student is None or student.preprocessing is None:
        return None
    known = files.preprocessing_of(teacher.path, teacher.model)
    return seeing.own(teacher.teaching, known, student.preprocessing)


def _classified(
    network: Loaded, teaching: TeachingChoice, student: ModelInfo, folder: pathlib.Path
) -> Loaded:
    """A teacher with the probe, or the class vectors, that the run in a folder gave it."""
    shape, count = student.preprocessing.image_shape, student.num_classes
    embedding = networks.summarize(network.network, shape).outputs.embedding
    width = 0 if isinstance(embedding, tuple) else embedding.shape[-1]
    if teaching.probe:
        made = wrapped.Probed(network.network, count)
        place = probe.folder_of(folder, teaching.label)
        name, value = wrapped.PROBE, probe.read(place, width, count)
    else:
        value, name = vectors.read(pathlib.Path(teaching.class_vectors), student), wrapped.VECTORS
        reads = "embedding" if value.shape[-1] == width else "logits"
        scale = teaching.class_vectors_scale
        made = wrapped.ZeroShot(network.network, value.shape, reads, scale)
    about = dataclasses.replace(network.about, num_classes=count, class_names=student.class_names)
    return dataclasses.replace(
        network,
        network=made,
        variables=wrapped.with_entry(network.variables, name, value),
        num_classes=count,
        about=about,
    )


def matched(network: Loaded, student: ModelInfo | None) -> Loaded:
    """A teacher with the classes of its student's data, where training matched them by name.

    Args:
      network: with its `about.preprocessing`.
      student: what is known of the student; None for nothing.
    """
    theirs = network.about
    if student is None:
        return network
    ours, count = student.class_names, student.num_classes
    order = classes.match(theirs.class_names, theirs.num_classes, ours, count).order
    if order is None:
        return network
    choice = NetworkChoice(theirs.model, jnp.float32, options=theirs.options)
    made = choice.create(count)
    axes = choice.class_axes(made, theirs.preprocessing.image_shape)
    return dataclasses.replace(
        network,
        network=made,
        variables=classes.with_classes(network.variables, axes, order, count),
        num_classes=count,
        about=dataclasses.replace(theirs, class_names=ours, num_classes=count),
    )


def _checkpoint(teacher: Mapping[str, Any]) -> str:
    """Of a teacher that was taken as it is; "" of one that the run trained."""
    return "" if teacher.get("fine_tune") else teacher.get("checkpoint", "")


def _suffix(number: int) -> str:
    return str(number) if number > 1 else ""


def as_one(members: Sequence[Predictor], weights: Sequence[float]) -> Predictor:
    """Several networks as one, whose logits are the weighted mean of theirs.

    Raises:
      InputError: they differ in their classes.
    """
    first = members[0].about
    for member in members[1:]:
        same = member.about.num_classes == first.num_classes
        if not same or member.about.class_names != first.class_names:
            raise errors.InputError(
                f"the teachers '{first.model}' and '{member.about.model}' differ in their classes:"
                " ask one of them, with --workdir=ITS_FOLDER"
            )
    shares = np.asarray(weights, np.float32) / np.float32(sum(weights))

    def compute(images: np.ndarray) -> dict[str, np.ndarray]:
        outputs = (member.compute(images)["logits"] for member in members)
        return {"logits": sum(w * logits for w, logits in zip(shares, outputs, strict=True))}

    name = "+".join(member.about.model for member in members)
    about = dataclasses.replace(first, model=name, training={}, metrics={})
    return Predictor(compute, about, members[0].runtime, members[0].devices)
