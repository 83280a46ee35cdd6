"""The teacher: a network whose weights stay as they are, or several such networks as one."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rrd_jax import (
    checkpoints,
    console,
    data,
    errors,
    networks,
    parallel,
    predictions,
    pretrained,
)
from rrd_jax.choices import NetworkChoice
from rrd_jax.convert import files
from rrd_jax.objectives import Objective
from rrd_jax.recipe import Training
from rrd_jax.teacher import doubts, ensemble, fold
from rrd_jax.teacher.cache import EmbeddingCache


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenNetwork:
    """A network with weights, on the devices.

    Attributes:
      network: of `networks.create`, or an Ensemble.
      variables: its weights.
      folders: where each member's embeddings of training images are kept.
      dataset: the images.
      mesh: the devices.
      training: the student's, for the normalisation and the batches of evaluation.
      terms: the objectives a student was trained with, if one of them classifies in its place.
      what: it is, for warnings.
      examined: whether its predictions can be doubted; not on random images.
      origins: of each member, as JSON: model, checkpoint, and digest of the weights.
      compares: whether its logits are of the data's classes; if not, they mean nothing.
    """

    network: networks.Network
    variables: Any
    folders: tuple[pathlib.Path, ...]
    dataset: data.Dataset
    mesh: jax.sharding.Mesh
    training: Training
    terms: Mapping[str, Objective] | None = None
    what: str = "the teacher"
    examined: bool = True
    origins: tuple[Mapping[str, str], ...] = ()
    compares: bool = True

    @functools.cached_property
    def folded(self) -> Any:
        """The weights with batch norms folded into convolutions; steps are given these."""
        folding = functools.partial(fold.fold, self.network, image_shape=self.dataset.image_shape)
        return jax.jit(folding, out_shardings=parallel.replicated(self.mesh))(self.variables)

    @functools.cached_property  # a job that is finished already never asks
    def predictions(self) -> predictions.Predictions:
        """What the network predicts for the test split."""
        predict = predictions.compile_predict(
            self.network, self.training.normalize, self.mesh, self.terms
        )
        batch_size = self.training.eval_batch_size
        return predictions.collect(
            predict, self.variables, self.dataset.test, batch_size, self.mesh
        )

    @property
    def reference(self) -> dict[str, np.ndarray] | None:
        """Its predictions, for a student's to be compared with; None where classes differ."""
        return self.predictions if self.compares else None

    def examine(self) -> str:
        """Why its predictions for the test split look wrong, "" where they do not.

        It is a warning the first time.

        Raises:
          InputError: its logits are not finite.
        """
        return self._doubt

    @functools.cached_property
    def _doubt(self) -> str:
        if not self.examined or not self.compares:
            return ""
        if isinstance(self.network, ensemble.Ensemble):
            return " ".join(member.examine() for member in self._members())
        if not np.isfinite(self.predictions["loss"]).all():
            raise errors.InputError(
                f"the logits of {self.what} are not finite for images of the test split: its"
                " weights are too large, or damaged"
            )
        doubt = doubts.of(self.predictions, self.dataset.num_classes)
        if doubt:
            console.warn(f"{self.what} is doubtful: {doubt}")
        return doubt

    def _members(self) -> Iterator["FrozenNetwork"]:
        """The members of an Ensemble."""
        for i, (network, variables) in enumerate(ensemble.members(self.network, self.variables), 1):
            what = f"teacher {i} of {len(self.network.members)}"
            yield dataclasses.replace(self, network=network, variables=variables, what=what)

    @functools.cached_property
    def cache(self) -> EmbeddingCache | None:
        """Its embeddings of the training images; None where these are streamed."""
        if not self.dataset.train.on_device:
            return None
        return EmbeddingCache(
            self.network,
            self.variables,
            lambda: self.folded,
            self.folders,
            self.dataset.train,
            self.mesh,
        )


def load(
    choice: NetworkChoice,
    path: pathlib.Path,
    dataset: data.Dataset,
    mesh: jax.sharding.Mesh,
    training: Training,
    terms: Mapping[str, Objective] | None = None,
) -> FrozenNetwork:
    """A network from a checkpoint or a file.

    Args:
      choice: which network.
      path: of its weights, as in `convert.files.load`.
      dataset: the images.
      mesh: the devices.
      training: as FrozenNetwork's.
      terms: the objectives that a student was trained with; None for a teacher.

    Raises:
      InputError: the checkpoint is missing, damaged, or of another network or data set.
    """
    variables, meta = files.load(path, choice.model)
    compares = True
    if terms is None:
        variables, compares = _with_classes(path, variables, meta, choice, dataset, training)
    else:
        _check_fits(path, meta, choice.model, dataset)
        _warn_of_other_data(path, meta, dataset)
    classifier = meta.get("classifier")
    if classifier and classifier not in (terms or {}):
        raise errors.InputError(
            f"the network in {path} was trained with '{classifier}', which classifies in its place:"
            f" it is no teacher, and evaluated with the objective '{classifier}' in the config only"
        )
    home, _ = files.split(path)
    home = home.parent if home.name == "checkpoints" else home
    folder = home / "views" if home.is_dir() else home.with_name(f"{home.name}.views")
    frozen = from_variables(choice, variables, folder, dataset, mesh, training, where=str(path))
    return dataclasses.replace(frozen, terms=terms if classifier else None, compares=compares)


def from_variables(
    choice: NetworkChoice,
    variables: Any,
    folder: pathlib.Path,
    dataset: data.Dataset,
    mesh: jax.sharding.Mesh,
    training: Training,
    *,
    where: str = "",
) -> FrozenNetwork:
    """A network with weights that are in memory.

    Args:
      choice: which network.
      variables: its weights.
      folder: where its embeddings of training images are kept.
      dataset: the images.
      mesh: the devices.
      training: as FrozenNetwork's.
      where: the weights are from, for messages; "" for the network's name.

    Raises:
      InputError: the weights do not fit the network.
    """
    network = choice.create(dataset.num_classes)
    where = where or f"'{choice.model}'"
    networks.check_weights(where, variables, network, dataset.image_shape)
    variables = parallel.put(parallel.replicated(mesh), variables)
    origin = {"model": choice.model, "checkpoint": where, "digest": checkpoints.digest(variables)}
    return FrozenNetwork(network, variables, (folder,), dataset, mesh, training, origins=(origin,))


def _with_classes(
    path: pathlib.Path,
    variables: dict[str, Any],
    meta: Mapping[str, Any],
    choice: NetworkChoice,
    dataset: data.Dataset,
    training: Training,
) -> tuple[dict[str, Any], bool]:
    """A teacher's weights with the classes of the data, by name; says what is done.

    Returns:
      The weights, and whether their logits are of the data's classes.

    Raises:
      InputError: it is another network; or its classes are not the data's, and an objective
        compares them.
    """
    count, needed = meta["num_classes"], dataset.num_classes
    names = pretrained.class_names(meta, path)
    classes = pretrained.match_classes(names, count, dataset.class_names, needed)
    is_made = choice.network is not None  # for one number of classes
    _check_fits(path, meta, choice.model, dataset, any_classes=not is_made)
    if classes.is_same:
        return variables, True
    if classes.order is None and classes.compares:
        _warn_of_other_data(path, meta, dataset)
        return variables, True
    about = f"the teacher in {path} has {count:,} classes and the data {needed:,}"
    if classes.compares:
        console.say(f"{about}: they are matched by name, {classes.reason}")
    else:
        about = f"{about}, which are not the same: {classes.reason}"
        _check_relations(about, training)
        console.note(
            f"{about}; what it makes of images before its classifier is compared alone, and there"
            " is no agreement with it"
        )
    axes = choice.class_axes(choice.create(needed), dataset.image_shape)
    return pretrained.with_classes(variables, axes, classes.order, needed), classes.compares


def _check_relations(about: str, training: Training) -> None:
    """Raises an InputError for objectives that compare classes with those of a teacher."""
    comparing = [choice.name for choice in training.objectives if choice.needs_classes]
    if comparing:
        raise errors.InputError(
            f"{about}. {' and '.join(comparing)} would compare them: use objectives on relations or"
            " maps, such as method rrd; or name the classes with data.class_names; or fine-tune"
            " the teacher with teacher.fine_tune"
        )


def _warn_of_other_data(path: pathlib.Path, meta: Mapping[str, Any], dataset: data.Dataset) -> None:
    """Warns of a network that was trained on other data, with as many classes."""
    if (trained_on := meta.get("dataset")) and trained_on != dataset.version:
        console.warn(
            f"the network in {path} was trained on {trained_on}, and these data are"
            f" {dataset.version}: their classes must be the same, in the same order"
        )


def _check_fits(
    path: pathlib.Path,
    meta: Mapping[str, Any],
    model: str,
    dataset: data.Dataset,
    *,
    any_classes: bool = False,
) -> None:
    """Raises an InputError for a network that is not the one that config and data need."""
    given = (meta["model"], meta["num_classes"], meta["image_shape"][-1])
    needed = (model, dataset.num_classes, dataset.image_shape[-1])
    if given == needed or (any_classes and given[::2] == needed[::2]):
        return
    reason = "it is another network"
    if given[0] == needed[0]:
        reason = "it was trained on other classes, or on other images"
    form = "{} for {} classes and {} image channels"
    raise errors.InputError(
        f"the network in {path} is {form.format(*given)}, but config and data need"
        f" {form.format(*needed)}: {reason}"
    )


def as_ensemble(teachers: Sequence[FrozenNetwork], weights: Sequence[float]) -> FrozenNetwork:
    """Several teachers as one.

    Args:
      teachers: one or more, for the same data set.
      weights: of their logits, adding up to 1; ignored for one teacher.
    """
    if len(teachers) == 1:
        return teachers[0]
    members = tuple(teacher.network for teacher in teachers)
    return dataclasses.replace(
        teachers[0],
        network=ensemble.Ensemble(members, tuple(weights)),
        variables=ensemble.stack_variables([teacher.variables for teacher in teachers]),
        folders=tuple(folder for teacher in teachers for folder in teacher.folders),
        origins=tuple(origin for teacher in teachers for origin in teacher.origins),
        compares=all(teacher.compares for teacher in teachers),
    )
