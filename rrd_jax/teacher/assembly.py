"""Assembly of a teacher: network and weights, preprocessing, and the source of its logits."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from rrd_jax import data, errors, imports, networks
from rrd_jax.data.model_info import Preprocessing
from rrd_jax.networks import Network
from rrd_jax.teacher import class_matching, class_vectors, preprocessing, wrappers
from rrd_jax.terminal import console
from rrd_jax.training.choices import NetworkChoice, TeachingChoice
from rrd_jax.training.recipe import Training
from rrd_jax.weights import files, pretrained


class TeacherSpec(NamedTuple):
    """The config of one teacher, with the data set and the training settings of its student.

    Attributes:
      choice: the network.
      teaching: the teacher's preprocessing, and the source of its logits.
      path: path of the weights; None for weights in memory.
      dataset: the student's data set.
      training: the student's training settings.
    """

    choice: NetworkChoice
    teaching: TeachingChoice
    path: pathlib.Path | None
    dataset: data.Dataset
    training: Training

    @property
    def location(self) -> str:
        """The path of the weights, or the name of the model, for messages."""
        return str(self.path) if self.path else f"'{self.choice.model}'"

    @property
    def is_custom(self) -> bool:
        """True for a custom network, whose classifier cannot be omitted."""
        return self.choice.network is not None or imports.is_path(self.choice.model)

    @property
    def student_preprocessing(self) -> Preprocessing:
        """The preprocessing of the student's images."""
        size, _, channels = self.dataset.image_shape
        return Preprocessing(size, channels, self.training.mean, self.training.std)

    def preprocessing(self) -> Preprocessing | None:
        """Returns the teacher's preprocessing; None if it is the student's."""
        return preprocessing.for_teacher(self.teaching, self._stored, self.student_preprocessing)

    @property
    def _stored(self) -> Preprocessing | None:
        return files.preprocessing_of(self.path, self.choice.model) if self.path else None

    def describe_background(self) -> str:
        """Returns a warning if the run that trained the teacher had another background, or ""."""
        transparent = self.dataset.summary.details.get("transparent", 0)
        is_run = self.path and (files.split(self.path)[0] / "checkpoints").exists()
        stored = self._stored if transparent and is_run else None
        if stored is None or stored.background == self.dataset.background:
            return ""
        return (
            f"the teacher in {self.location} was trained with data.background={stored.background},"
            f" but this run has data.background={self.dataset.background}, and {transparent:,}"
            f" images have transparency; set data.background={stored.background} in a new --workdir"
        )

    def class_vectors(self) -> np.ndarray | None:
        """Reads the class vectors [C, D] of a zero-shot teacher; None for other teachers."""
        path = self.teaching.class_vectors
        return class_vectors.read(pathlib.Path(path), self.dataset) if path else None


class Assembled(NamedTuple):
    """A teacher's network with its weights.

    Attributes:
      network: the network as train steps apply it, but without a probe.
      variables: weights of the network.
      compares: whether the logits belong to the classes of the data; False without logits.
    """

    network: Network
    variables: Any
    compares: bool


def assemble(spec: TeacherSpec, variables: Any, meta: Mapping[str, Any]) -> Assembled:
    """Builds a teacher from its weights, and logs changes of its classifier and preprocessing.

    Args:
      spec: config of the teacher.
      variables: weights of the teacher, from `weights.files.load`.
      meta: description of the weights; empty if unknown.

    Raises:
      InputError: weights or class vectors do not fit the network or the data; or an objective
        compares classes, and the teacher has no classes or other classes than the data.
    """
    teaching, separate, vectors = spec.teaching, spec.preprocessing(), spec.class_vectors()
    shape = separate.image_shape if separate else spec.dataset.image_shape
    source, compares = "", bool(teaching.classifier)
    if teaching.classifier or not spec.dataset.num_classes:
        if meta:
            class_matching.check_fits(
                spec.path, meta, spec.choice.model, spec.dataset, any_classes=True
            )
        network, source = _without_classifier(spec, vectors, shape, meta.get("num_classes"))
        if source != "logits":
            variables = _drop_head(spec, variables, meta, shape)
    elif meta:
        network, variables, compares = class_matching.fit_classifier(
            spec.path, variables, meta, spec.choice, spec.dataset, spec.training, shape
        )
    else:
        network = spec.choice.create(spec.dataset.num_classes)
        compares = not isinstance(networks.summarize(network, shape).outputs.logits, tuple)
        if not compares:
            class_matching.check_headless(f"the teacher {spec.location}", spec.training)
    variables = networks.fit_positions(variables, network, shape, spec.choice.positions)
    networks.check_weights(spec.location, variables, network, shape)
    networks.check_independence(network, spec.choice.model, shape, variables)
    if separate:
        console.say(
            preprocessing.describe(spec.location, separate, spec.student_preprocessing, teaching)
        )
    if warning := spec.describe_background():
        console.warn(warning)
    network = preprocessing.wrap(network, separate, spec.student_preprocessing)
    if vectors is not None:
        scale = teaching.class_vectors_scale
        network = wrappers.ZeroShot(network, vectors.shape, source, scale)
        variables = wrappers.with_parameter(variables, wrappers.VECTORS, vectors)
    return Assembled(network, variables, compares)


def assemble_student(spec: TeacherSpec, variables: Any) -> Assembled:
    """Builds a student from its weights, for evaluation on the data's images.

    Raises:
      InputError: the weights do not fit the network.
    """
    network, shape = spec.choice.create(spec.dataset.num_classes), spec.dataset.image_shape
    variables = networks.fit_positions(variables, network, shape, spec.choice.positions)
    networks.check_weights(spec.location, variables, network, shape)
    networks.check_independence(network, spec.choice.model, shape, variables)
    return Assembled(network, variables, compares=True)


def outline(spec: TeacherSpec) -> Network:
    """Returns the network of a teacher without reading its weights.

    Raises:
      InputError: the config, or the description of the weights, does not fit the data.
    """
    separate, vectors, num_classes = (
        spec.preprocessing(),
        spec.class_vectors(),
        spec.dataset.num_classes,
    )
    shape = separate.image_shape if separate else spec.dataset.image_shape
    if spec.teaching.classifier:
        network, source = _without_classifier(spec, vectors, shape, None)
    else:
        network, source = spec.choice.create(num_classes), ""
    network = preprocessing.wrap(network, separate, spec.student_preprocessing)
    if vectors is not None:
        return wrappers.ZeroShot(network, vectors.shape, source, spec.teaching.class_vectors_scale)
    return wrappers.Probed(network, num_classes) if spec.teaching.probe else network


def _without_classifier(
    spec: TeacherSpec, vectors: np.ndarray | None, shape: tuple[int, ...], count: int | None
) -> tuple[Network, str]:
    """Returns the network of a teacher whose original classifier is unused.

    Args:
      spec: config of the teacher.
      vectors: class vectors [C, D]; None without class vectors.
      shape: shape of the network's images.
      count: number of classes of the weights; None if unknown.

    Returns:
      The network, and the output that is compared with class vectors: "embedding", or "logits" of
      a network whose classifier projects into the space of the vectors.

    Raises:
      InputError: neither the embedding nor the logits have the dimension of the class vectors.
    """
    classes = (count or spec.dataset.num_classes) if spec.is_custom else 0
    network = spec.choice.create(classes)
    outputs = networks.summarize(network, shape).outputs
    width = 0 if isinstance(outputs.embedding, tuple) else outputs.embedding.shape[-1]
    if vectors is None or vectors.shape[-1] == width:
        return network, "embedding"
    dimension = vectors.shape[-1]
    if spec.choice.network is not None and not isinstance(outputs.logits, tuple):
        count = outputs.logits.shape[-1]
    if count not in (None, dimension):
        classifier = f" and its classifier {count}" if count else ", and it has no classifier"
        raise errors.InputError(
            f"{spec.teaching.section}.class_vectors have {dimension} dimensions, but the embedding"
            f" of '{spec.choice.model}' has {width or 'none'}{classifier}; use class vectors of"
            " this network, or weights that include its projection"
        )
    return spec.choice.create(dimension), "logits"


def _drop_head(
    spec: TeacherSpec, variables: Any, meta: Mapping[str, Any], shape: tuple[int, ...]
) -> Any:
    """Removes the weights of the classifier, which `_without_classifier` omits."""
    count = meta.get("num_classes", spec.dataset.num_classes)
    if spec.is_custom or not count:
        return variables
    head = spec.choice.class_axes(spec.choice.create(count), shape)
    return pretrained.drop_params(variables, head)
