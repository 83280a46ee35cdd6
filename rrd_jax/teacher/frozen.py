"""The teacher: a network whose weights stay as they are, or several such networks as one."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rrd_jax import checkpoints, data, errors, networks, parallel
from rrd_jax.data.feeds import feed
from rrd_jax.evaluation import alignment, predictions, rows
from rrd_jax.objectives import Objective
from rrd_jax.teacher import classes, doubts, ensemble, fold, labelled, making, probe, wrapped
from rrd_jax.teacher.cache import EmbeddingCache
from rrd_jax.terminal import console
from rrd_jax.training.choices import NetworkChoice, TeachingChoice
from rrd_jax.training.recipe import Training
from rrd_jax.weights import files


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
      compares: whether its logits are of the data's classes; if not, they mean nothing, or it has
        none.
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
            self.network,
            self.training.normalize,
            self.mesh,
            self.terms,
            fast_cpu=self.training.fast_cpu,
        )
        batch_size = self.training.eval_batch_size
        return predictions.collect(
            predict, self.variables, self.dataset.test, batch_size, self.mesh
        )

    @property
    def reference(self) -> dict[str, np.ndarray] | None:
        """Its predictions, for a student's to be compared with; None where classes differ."""
        return self.predictions if self.compares else None

    @functools.cached_property
    def held_out(self) -> alignment.Reference:
        """Its embeddings of held-out images, which a student's are compared with."""
        split = held_out(self.dataset, self.training.proof.images)
        embeddings, _ = predictions.collect_embeddings(
            self._embed, self.variables, split, self.training.eval_batch_size, self.mesh
        )
        if not np.isfinite(embeddings).all():
            raise errors.InputError(
                f"the embeddings of {self.what} are not finite for images of the test split: its"
                " weights are too large, or damaged"
            )
        return alignment.reference(embeddings)

    @functools.cached_property
    def labelled(self) -> dict[str, float]:
        """What its embeddings say of the classes of labelled images, as `labelled.of` has it."""
        judged = self.dataset.few or self.dataset
        return labelled.of(self._embed, self.variables, judged, self.mesh, self.training)

    @functools.cached_property
    def _embed(self) -> Callable:
        return predictions.compile_embed(
            self.network, self.training.normalize, self.mesh, fast_cpu=self.training.fast_cpu
        )

    def examine(self) -> str:
        """Why its predictions for the test split look wrong, "" where they do not.

        It is a warning the first time.

        Raises:
          InputError: its logits are not finite.
        """
        return self._doubt

    @functools.cached_property
    def _doubt(self) -> str:
        if not (self.examined and self.compares and self.dataset.labelled):
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
    def cache(self) -> EmbeddingCache:
        """Its embeddings of the training images."""
        return EmbeddingCache(
            self.network,
            self.variables,
            lambda: self.folded,
            self.folders,
            self.dataset,
            self.mesh,
            dtype=self.training.teacher_cache.dtype,
            fast_cpu=self.training.fast_cpu,
        )


def held_out(dataset: data.Dataset, most: int) -> feed.Resident | feed.Streamed:
    """Test images that student and teacher are compared on: all, or so many that are drawn."""
    return feed.some(dataset.test, rows.places(len(dataset.test), most))


def load(
    choice: NetworkChoice,
    path: pathlib.Path,
    dataset: data.Dataset,
    mesh: jax.sharding.Mesh,
    training: Training,
    terms: Mapping[str, Objective] | None = None,
    teaching: TeachingChoice | None = None,
) -> FrozenNetwork:
    """A network from a checkpoint or a file.

    Args:
      choice: which network.
      path: of its weights, as in `convert.files.load`.
      dataset: the images.
      mesh: the devices.
      training: as FrozenNetwork's.
      terms: the objectives that a student was trained with; None for a teacher.
      teaching: of a teacher, how it sees images, and where its logits come from; a probe of it is
        made by `probed`.

    Raises:
      InputError: the checkpoint is missing, damaged, or of another network or data set.
    """
    variables, meta = files.load(path, choice.model, headless=terms is None)
    classifier = meta.get("classifier")
    if classifier and classifier not in (terms or {}):
        raise errors.InputError(
            f"the network in {path} was trained with '{classifier}', which classifies in its place:"
            f" it is no teacher, and evaluated with the objective '{classifier}' in the config only"
        )
    home, _ = files.split(path)
    home = home.parent if home.name == "checkpoints" else home
    folder = home / "views" if home.is_dir() else home.with_name(f"{home.name}.views")
    setting = making.Setting(choice, teaching or TeachingChoice(), path, dataset, training)
    if terms is None:
        made = making.make(setting, variables, meta)
        return _placed(setting, made, folder, mesh)
    classes.check_fits(path, meta, choice.model, dataset)
    classes.warn_of_other_data(path, meta, dataset)
    made = making.plain(setting, variables)
    frozen = _placed(setting, made, folder, mesh)
    return dataclasses.replace(frozen, terms=terms if classifier else None)


def from_variables(
    choice: NetworkChoice,
    variables: Any,
    folder: pathlib.Path,
    dataset: data.Dataset,
    mesh: jax.sharding.Mesh,
    training: Training,
    teaching: TeachingChoice | None = None,
) -> FrozenNetwork:
    """A teacher with weights that are in memory.

    Args:
      choice: which network.
      variables: its weights.
      folder: where its embeddings of training images are kept.
      dataset: the images.
      mesh: the devices.
      training: as FrozenNetwork's.
      teaching: as `load` has it.

    Raises:
      InputError: the weights do not fit the network.
    """
    setting = making.Setting(choice, teaching or TeachingChoice(), None, dataset, training)
    return _placed(setting, making.make(setting, variables, {}), folder, mesh)


def _placed(
    setting: making.Setting, made: making.Made, folder: pathlib.Path, mesh: jax.sharding.Mesh
) -> FrozenNetwork:
    """A network that was made, on the devices."""
    variables = parallel.put(parallel.replicated(mesh), made.variables)
    origin = {"model": setting.choice.model, "checkpoint": setting.where}
    origin["digest"] = checkpoints.digest(variables)
    if setting.teaching.classifier:
        origin["classifier"] = setting.teaching.classifier
    return FrozenNetwork(
        made.network,
        variables,
        (folder,),
        setting.dataset,
        mesh,
        setting.training,
        origins=(origin,),
        compares=made.compares,
    )


def probed(
    teacher: FrozenNetwork, teaching: TeachingChoice, folder: pathlib.Path, *, keep: bool = True
) -> FrozenNetwork:
    """A teacher with a linear probe for a classifier, where one is asked for; else itself.

    Args:
      teacher: without it.
      teaching: what is asked for.
      folder: of the workdir; the probe is kept in it, beside a teacher that is trained there.
      keep: whether one that is trained is kept.
    """
    if not teaching.probe:
        return teacher
    given = (teacher.network, teacher.variables, teacher.dataset, teacher.mesh, teacher.training)
    place = probe.folder_of(folder, teaching.label)
    head = probe.get(*given, teaching.probe_l2, place, label=teaching.label, keep=keep)
    return dataclasses.replace(
        teacher,
        network=wrapped.Probed(teacher.network, teacher.dataset.num_classes),
        variables=wrapped.with_entry(teacher.variables, wrapped.PROBE, head),
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
