"""A teacher as it teaches: its weights, how it sees images, and where its logits come from."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from rrd_jax import data, errors, imports, networks
from rrd_jax.data.model_info import Preprocessing
from rrd_jax.networks import Network
from rrd_jax.teacher import classes, seeing, vectors, wrapped
from rrd_jax.terminal import console
from rrd_jax.training.choices import NetworkChoice, TeachingChoice
from rrd_jax.training.recipe import Training
from rrd_jax.weights import files, pretrained


class Setting(NamedTuple):
    """What a teacher is made of, and for.

    Attributes:
      choice: its network.
      teaching: how it sees images, and where its logits come from.
      path: of its weights; None where they are in memory.
      dataset: the images.
      training: the student's.
    """

    choice: NetworkChoice
    teaching: TeachingChoice
    path: pathlib.Path | None
    dataset: data.Dataset
    training: Training

    @property
    def where(self) -> str:
        """Its weights are, for messages."""
        return str(self.path) if self.path else f"'{self.choice.model}'"

    @property
    def student(self) -> Preprocessing:
        """What the student sees."""
        size, _, channels = self.dataset.image_shape
        return Preprocessing(size, channels, self.training.mean, self.training.std)

    def seen(self) -> Preprocessing | None:
        """What the teacher sees; None where that is what the student sees."""
        known = files.preprocessing_of(self.path, self.choice.model) if self.path else None
        return seeing.own(self.teaching, known, self.student)


class Made(NamedTuple):
    """A network that teaches.

    Attributes:
      network: as steps apply it; a probe is still to be trained for it.
      variables: its weights.
      compares: whether its logits are of the data's classes; False too where it has none.
    """

    network: Network
    variables: Any
    compares: bool


class _Inside(NamedTuple):
    """The network that is wrapped, and what of its Outputs class vectors are compared with."""

    network: Network
    reads: str = ""


def make(setting: Setting, variables: Any, meta: Mapping[str, Any]) -> Made:
    """A teacher with its weights; says what is done to them, and to its images.

    Args:
      setting: what it is made of.
      variables: its weights, as `convert.files.load` gives them.
      meta: what is known of them; empty for nothing.

    Raises:
      InputError: weights or class vectors do not fit the network or the data; or it has no
        classes, or others than the data, and an objective compares them.
    """
    teaching, seen, rows = setting.teaching, setting.seen(), _vectors(setting)
    shape = seen.image_shape if seen else setting.dataset.image_shape
    reads, compares = "", True
    if teaching.classifier or not setting.dataset.num_classes:
        inside, variables, reads = _without_logits(setting, variables, meta, rows, shape)
        compares = bool(teaching.classifier)
    else:
        inside, variables, compares = _with_logits(setting, variables, meta, shape)
    variables = networks.fit_positions(variables, inside, shape)
    networks.check_weights(setting.where, variables, inside, shape)
    if seen:
        console.say(seeing.describe(setting.where, seen, setting.student, teaching))
    network = seeing.wrap(inside, seen, setting.student)
    if rows is not None:
        network = wrapped.ZeroShot(network, rows.shape, reads, teaching.class_vectors_scale)
        variables = wrapped.with_entry(variables, wrapped.VECTORS, rows)
    return Made(network, variables, compares)


def _with_logits(
    setting: Setting, variables: Any, meta: Mapping[str, Any], shape: tuple[int, int, int]
) -> Made:
    """A teacher with its own classifier, if it has one."""
    choice, _, path, dataset, training = setting
    if meta:
        return Made(*classes.fitted(path, variables, meta, choice, dataset, training, shape))
    network = choice.create(dataset.num_classes)
    has_logits = not isinstance(networks.summarize(network, shape).outputs.logits, tuple)
    if not has_logits:
        classes.check_headless(f"the teacher {setting.where}", training)
    return Made(network, variables, has_logits)


def _without_logits(
    setting: Setting,
    variables: Any,
    meta: Mapping[str, Any],
    rows: np.ndarray | None,
    shape: tuple[int, int, int],
) -> tuple[Network, Any, str]:
    """A teacher whose classifier is left out, or is a projection; and what `_Inside` reads.

    It is left out too where neither the data nor an objective have classes.
    """
    if meta:
        given = (setting.path, meta, setting.choice.model, setting.dataset)
        classes.check_fits(*given, any_classes=True)
    network, reads = _inside(setting, rows, shape, meta.get("num_classes"))
    if reads != "logits":
        variables = _without_head(setting, variables, meta, shape)
    return network, variables, reads


def plain(setting: Setting, variables: Any) -> Made:
    """A student with its weights, which sees the images of the data.

    Raises:
      InputError: the weights do not fit the network.
    """
    network = setting.choice.create(setting.dataset.num_classes)
    shape = setting.dataset.image_shape
    variables = networks.fit_positions(variables, network, shape)
    networks.check_weights(setting.where, variables, network, shape)
    return Made(network, variables, compares=True)


def outline(setting: Setting) -> Network:
    """The network of a teacher as it will teach, as far as is known without its weights.

    Raises:
      InputError: what the config or its folder says of it does not fit the data.
    """
    seen, rows = setting.seen(), _vectors(setting)
    shape = seen.image_shape if seen else setting.dataset.image_shape
    num_classes = setting.dataset.num_classes
    if not setting.teaching.classifier:
        inside, reads = setting.choice.create(num_classes), ""
    else:
        inside, reads = _inside(setting, rows, shape, None)
    network = seeing.wrap(inside, seen, setting.student)
    if rows is not None:
        return wrapped.ZeroShot(network, rows.shape, reads, setting.teaching.class_vectors_scale)
    return wrapped.Probed(network, num_classes) if setting.teaching.probe else network


def _vectors(setting: Setting) -> np.ndarray | None:
    path = setting.teaching.class_vectors
    return vectors.read(pathlib.Path(path), setting.dataset) if path else None


def _inside(
    setting: Setting, rows: np.ndarray | None, shape: tuple[int, ...], count: int | None
) -> _Inside:
    """The network of a teacher whose logits are not its own.

    Args:
      setting: what it is made of.
      rows: class vectors; None for none.
      shape: of the images that it sees.
      count: of the classes of its weights; None where that is not known.

    Raises:
      InputError: class vectors have neither the dimension of its embedding nor of its classifier.
    """
    choice, given = setting.choice, count or setting.dataset.num_classes
    bare = _bare(choice, given)
    outputs = networks.summarize(bare, shape).outputs
    width = 0 if isinstance(outputs.embedding, tuple) else outputs.embedding.shape[-1]
    if rows is None or rows.shape[-1] == width:
        return _Inside(bare, "embedding")
    dimension = rows.shape[-1]
    if choice.network is not None and not isinstance(outputs.logits, tuple):
        count = outputs.logits.shape[-1]
    if count not in (None, dimension):
        theirs = f" and its classifier {count}" if count else ", and it has no classifier"
        raise errors.InputError(
            f"{setting.teaching.section}.class_vectors have {dimension} dimensions, but the"
            f" embedding of '{choice.model}' has {width or 'none'}{theirs}: they are of another"
            " network, or lack its projection"
        )
    return _Inside(choice.create(dimension), "logits")


def _bare(choice: NetworkChoice, count: int) -> Network:
    """A network without a classifier, where it can be made so."""
    is_users = choice.network is not None or imports.is_path(choice.model)
    return choice.create(count if is_users else 0)


def _without_head(
    setting: Setting, variables: Any, meta: Mapping[str, Any], shape: tuple[int, ...]
) -> Any:
    """The weights without those of the classifier, where `_bare` has none."""
    choice = setting.choice
    count = meta.get("num_classes", setting.dataset.num_classes)
    if choice.network is not None or imports.is_path(choice.model) or not count:
        return variables
    head = choice.class_axes(choice.create(count), shape)
    return pretrained.without(variables, head)
