"""Frozen networks: a teacher, an ensemble of teachers, or a student in evaluation."""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rrd_jax import buckets, checkpoints, data, errors, hub, networks
from rrd_jax.data.feeds import feed
from rrd_jax.evaluation import alignment, patches, predictions, rows
from rrd_jax.objectives import Objective
from rrd_jax.teacher import (
    assembly,
    class_matching,
    dense_probe,
    embedding_accuracy,
    ensemble,
    placement,
    prediction_checks,
    probe,
    wrappers,
)
from rrd_jax.teacher.cache import EmbeddingCache
from rrd_jax.teacher.placement import FrozenWeights
from rrd_jax.terminal import console
from rrd_jax.training.choices import NetworkChoice, TeachingChoice
from rrd_jax.training.recipe import Training
from rrd_jax.weights import files


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenNetwork:
    """A network with its weights.

    Attributes:
      network: a network of `networks.create`, or an Ensemble.
      weights: the weights of each member of the network.
      folders: cache folders of the members' embeddings of training images.
      dataset: the data set.
      mesh: the devices.
      training: the student's training settings, for normalization and evaluation batches.
      terms: the objectives of a student's training, if one of them replaces its classifier.
      description: how messages refer to this network.
      is_examined: whether `examine` checks the predictions; False for random images.
      origins: model, checkpoint and `weights_digest` of each member, as JSON.
      earlier_digests: the digest of each member that checkpoints of version 0.2.0 record, of the
        weights after they were adapted to the data.
      compares: whether the logits belong to the classes of the data; False without logits.
    """

    network: networks.Network
    weights: tuple[FrozenWeights, ...]
    folders: tuple[pathlib.Path, ...]
    dataset: data.Dataset
    mesh: jax.sharding.Mesh
    training: Training
    terms: Mapping[str, Objective] | None = None
    description: str = "the teacher"
    is_examined: bool = True
    origins: tuple[Mapping[str, str], ...] = ()
    earlier_digests: tuple[str, ...] = ()
    compares: bool = True

    @property
    def variables(self) -> Any:
        """The variables that train steps apply, on the devices."""
        return self._combined([weights.folded for weights in self.weights])

    def evaluated(self) -> Any:
        """Returns the variables for an evaluation; see `FrozenWeights.evaluated`."""
        return self._combined([weights.evaluated() for weights in self.weights])

    def _combined(self, variables: Sequence[Any]) -> Any:
        is_ensemble = isinstance(self.network, ensemble.Ensemble)
        return ensemble.stack_variables(variables) if is_ensemble else variables[0]

    @property
    def parameters(self) -> int:
        """The number of trained scalars of all members."""
        return sum(weights.parameters for weights in self.weights)

    @functools.cached_property
    def predictions(self) -> predictions.SplitPredictions:
        """The predictions for the test split."""
        return self.predict(self.dataset.test)

    def predict(self, split: feed.Resident | feed.Streamed) -> dict[str, np.ndarray]:
        """Returns the predictions for a split."""
        return self._collect(self._predict, split)

    def logits(self, split: feed.Resident | feed.Streamed) -> dict[str, np.ndarray]:
        """Returns "logits" [N, C] float32 and "label" [N] of a split."""
        compute = predictions.compile_logits(*self._evaluated_parts, **self._evaluation_options)
        return self._collect(compute, split)

    @functools.cached_property
    def _predict(self) -> Callable:
        return predictions.compile_predict(*self._evaluated_parts, **self._evaluation_options)

    @property
    def _evaluated_parts(self) -> tuple[Any, ...]:
        """The arguments of the functions that compile an evaluation of logits."""
        return self.network, self.training.normalize, self.mesh, self.terms

    @property
    def _evaluation_options(self) -> dict[str, bool]:
        """The keyword arguments of the functions that compile an evaluation."""
        training = self.training
        return {"fast_cpu": training.fast_cpu, "fully": training.shard_parameters}

    def _collect(
        self, compute: Callable, split: feed.Resident | feed.Streamed
    ) -> dict[str, np.ndarray]:
        """Returns the outputs of a compiled function for a split."""
        batch_size = self.training.eval_batch_size
        return predictions.collect(compute, self.evaluated(), split, batch_size, self.mesh)

    @property
    def has_predicted(self) -> bool:
        """True if `predictions` are already computed."""
        return "predictions" in vars(self)

    @property
    def reference(self) -> dict[str, np.ndarray] | None:
        """The predictions for comparisons with a student's; None if the classes differ."""
        return self.predictions if self.compares else None

    @functools.cached_property
    def held_out(self) -> alignment.Reference:
        """The embeddings of held-out images, for comparisons with a student's."""
        split = held_out(self.dataset, self.training.alignment.images)
        embeddings, _ = predictions.collect_embeddings(
            self._embed, self.evaluated(), split, self.training.eval_batch_size, self.mesh
        )
        predictions.check_finite(embeddings, f"the embeddings of {self.description}")
        return alignment.reference(embeddings)

    @functools.cached_property
    def on_validation(self) -> "FrozenNetwork":
        """The same network with the validation images as its test split."""
        return dataclasses.replace(self, dataset=self.dataset.on_validation())

    @functools.cached_property
    def labelled(self) -> dict[str, float]:
        """Accuracies of classifiers on the embeddings, see `embedding_accuracy.evaluate`."""
        dataset = self.dataset.labelled_subset or self.dataset
        return embedding_accuracy.evaluate(
            self._embed, self.evaluated(), dataset, self.mesh, self.training
        )

    @functools.cached_property
    def dense(self) -> dict[str, float]:
        """Metrics of a linear probe on patches, see `DenseProbe.evaluate`."""
        subset = self.dataset.masked_subset
        dense = dense_probe.DenseProbe(self.network, subset, self.mesh, self.training, "teacher")
        return dense.evaluate(self.evaluated())

    def held_out_patches(self, grid: patches.Grid) -> alignment.Reference:
        """Returns patches of held-out images, interpolated to a grid, for comparisons."""
        if grid not in self._patch_references:
            compute = patches.compile_patches(
                self.network,
                self.training.normalize,
                self.mesh,
                grid=grid,
                **self._evaluation_options,
            )
            split = held_out(self.dataset, self.training.alignment.images)
            sample = patches.collect_sample(
                compute, self.evaluated(), split, self.training.eval_batch_size, self.mesh
            )
            predictions.check_finite(sample, f"the patches of {self.description}")
            self._patch_references[grid] = alignment.reference(sample)
        return self._patch_references[grid]

    @functools.cached_property
    def _patch_references(self) -> dict[patches.Grid, alignment.Reference]:
        return {}

    @functools.cached_property
    def _embed(self) -> Callable:
        return predictions.compile_embed(
            self.network,
            self.training.normalize,
            self.mesh,
            **self._evaluation_options,
        )

    def examine(self) -> str:
        """Returns a description of implausible test predictions; "" if they are plausible.

        The first call also logs a warning.

        Raises:
          InputError: the logits are not finite.
        """
        return self._problem

    @functools.cached_property
    def _problem(self) -> str:
        if not (self.is_examined and self.compares and self.dataset.labelled):
            return ""
        if isinstance(self.network, ensemble.Ensemble):
            return " ".join(member.examine() for member in self.members)
        if invalid := predictions.invalid(self.predictions):
            raise errors.InputError(
                f"{self.description} is invalid for the test split: {invalid}; check its weights,"
                " which are too large or damaged"
            )
        problem = prediction_checks.find_problem(self.predictions, self.dataset.num_classes)
        if problem:
            console.warn(f"implausible predictions of {self.description}: {problem}")
        return problem

    @functools.cached_property
    def members(self) -> tuple["FrozenNetwork", ...]:
        """The members of an Ensemble, or only this network."""
        if not isinstance(self.network, ensemble.Ensemble):
            return (self,)
        count = len(self.weights)
        return tuple(
            dataclasses.replace(
                self,
                network=weights.network,
                weights=(weights,),
                description=f"teacher {i} of {count}",
            )
            for i, weights in enumerate(self.weights, start=1)
        )

    @functools.cached_property
    def cache(self) -> EmbeddingCache:
        """The cache of the embeddings of the training images."""
        return EmbeddingCache(
            self.weights,
            self.folders,
            self.dataset,
            self.mesh,
            dtype=self.training.teacher_cache.dtype,
            has_patches=self.training.reads_patches(len(self.dataset.train)),
            fast_cpu=self.training.fast_cpu,
        )


def held_out(dataset: data.Dataset, limit: int) -> feed.Resident | feed.Streamed:
    """Returns at most `limit` test images, for comparisons of student and teacher."""
    return feed.select(dataset.test, rows.subset(len(dataset.test), limit))


def load(
    choice: NetworkChoice,
    path: pathlib.Path,
    dataset: data.Dataset,
    mesh: jax.sharding.Mesh,
    training: Training,
    terms: Mapping[str, Objective] | None = None,
    teaching: TeachingChoice | None = None,
) -> FrozenNetwork:
    """Loads a network from a checkpoint or a file.

    Args:
      choice: the network.
      path: path of the weights, see `weights.files.load`.
      dataset: the data set.
      mesh: the devices.
      training: see FrozenNetwork.
      terms: the objectives of a student's training; None for a teacher.
      teaching: a teacher's preprocessing, and the source of its logits; `with_probe` adds a probe.

    Raises:
      InputError: the checkpoint is missing, damaged, or of another network or data set.
    """
    variables, meta = files.load(path, choice.model, headless=terms is None, lazy=True)
    classifier = meta.get("classifier")
    if classifier and classifier not in (terms or {}):
        raise errors.InputError(
            f"the network in {path} was trained with '{classifier}', which replaces its classifier;"
            f" it cannot be a teacher, and its evaluation requires '{classifier}' in the objectives"
        )
    home, _ = files.split(path)
    home = home.parent if home.name == "checkpoints" else home
    # The cache is written in place, which a bucket does not support.
    views = hub.scratch(home) if hub.is_name(str(path)) else buckets.local(home)
    folder = views / "views" if home.is_dir() else views.with_name(f"{home.name}.views")
    spec = assembly.TeacherSpec(choice, teaching or TeachingChoice(), path, dataset, training)
    if terms is None:
        assembled = assembly.assemble(spec, variables, meta)
        return _on_devices(spec, assembled, variables, folder, mesh)
    class_matching.check_fits(path, meta, choice.model, dataset)
    class_matching.warn_about_other_data(path, meta, dataset)
    assembled = assembly.assemble_student(spec, variables)
    student = _on_devices(spec, assembled, variables, folder, mesh, folds=False)
    return dataclasses.replace(student, terms=terms if classifier else None)


def from_variables(
    choice: NetworkChoice,
    variables: Any,
    folder: pathlib.Path,
    dataset: data.Dataset,
    mesh: jax.sharding.Mesh,
    training: Training,
    teaching: TeachingChoice | None = None,
) -> FrozenNetwork:
    """Builds a teacher from weights in memory.

    Args:
      choice: the network.
      variables: weights of the network.
      folder: cache folder of the embeddings of training images.
      dataset: the data set.
      mesh: the devices.
      training: see FrozenNetwork.
      teaching: see `load`.

    Raises:
      InputError: the weights do not fit the network.
    """
    spec = assembly.TeacherSpec(choice, teaching or TeachingChoice(), None, dataset, training)
    return _on_devices(spec, assembly.assemble(spec, variables, {}), variables, folder, mesh)


def weights_digest(
    variables: Any,
    class_vectors: np.ndarray | None = None,
    sums: Mapping[int, Any] | None = None,
) -> str:
    """Returns the digest that identifies a teacher's weights.

    The digest is that of the arrays as loaded: a network has the same digest in every file format,
    and on every device, although resampled position embeddings differ between devices by rounding.

    Args:
      variables: weights as loaded, before they are adapted to the data.
      class_vectors: class vectors [C, D] of a zero-shot teacher; None for other teachers.
      sums: `checkpoints.leaf_sums` of arrays by id, which are not read again.
    """
    tree = variables if class_vectors is None else (variables, class_vectors)

    def sums_of(leaf):
        return sums[id(leaf)] if sums and id(leaf) in sums else checkpoints.leaf_sums(leaf)

    return checkpoints.combine(tree, jax.tree.map(sums_of, tree))


def _on_devices(
    spec: assembly.TeacherSpec,
    assembled: assembly.Assembled,
    loaded: Any,
    folder: pathlib.Path,
    mesh: jax.sharding.Mesh,
    *,
    folds: bool = True,
) -> FrozenNetwork:
    """Puts an assembled network, made of the weights `loaded`, on the devices."""
    weights, sums = placement.place(
        assembled.network,
        assembled.variables,
        spec.dataset.image_shape,
        mesh,
        fully=spec.training.shard_parameters,
        folds=folds,
    )
    origin = {"model": spec.choice.model, "checkpoint": spec.location}
    origin["digest"] = weights_digest(loaded, spec.class_vectors(), sums)
    if spec.teaching.classifier:
        origin["classifier"] = spec.teaching.classifier
    pairs = itertools.zip_longest(jax.tree.leaves(loaded), jax.tree.leaves(assembled.variables))
    is_adapted = any(before is not after for before, after in pairs)
    return FrozenNetwork(
        assembled.network,
        (weights,),
        (folder,),
        spec.dataset,
        mesh,
        spec.training,
        origins=(origin,),
        earlier_digests=(weights.digest if is_adapted else origin["digest"],),
        compares=assembled.compares,
    )


def with_probe(
    teacher: FrozenNetwork, teaching: TeachingChoice, folder: pathlib.Path, *, store: bool = True
) -> FrozenNetwork:
    """Returns a teacher with a linear probe as its classifier, if the config has one.

    Args:
      teacher: a teacher without a probe.
      teaching: the teacher's config.
      folder: the workdir, which stores the probe.
      store: whether to store a newly trained probe.
    """
    if not teaching.probe:
        return teacher
    (weights,) = teacher.weights
    head = probe.load_or_train(
        teacher.network,
        weights.evaluated,
        weights.digest,
        teacher.dataset,
        teacher.mesh,
        teacher.training,
        teaching.probe_l2,
        probe.cache_folder(folder, teaching.label),
        label=teaching.label,
        store=store,
    )
    network = wrappers.Probed(teacher.network, teacher.dataset.num_classes)
    weights = weights.with_parameter(network, wrappers.PROBE, head)
    return dataclasses.replace(teacher, network=network, weights=(weights,))


def combine(teachers: Sequence[FrozenNetwork], weights: Sequence[float]) -> FrozenNetwork:
    """Combines several teachers into one.

    Args:
      teachers: one or more teachers for the same data set.
      weights: weights of their logits, with sum 1; ignored for one teacher.
    """
    if len(teachers) == 1:
        return teachers[0]
    members = tuple(teacher.network for teacher in teachers)
    return dataclasses.replace(
        teachers[0],
        network=ensemble.Ensemble(members, tuple(weights)),
        weights=tuple(weights for teacher in teachers for weights in teacher.weights),
        folders=tuple(folder for teacher in teachers for folder in teacher.folders),
        origins=tuple(origin for teacher in teachers for origin in teacher.origins),
        earlier_digests=tuple(digest for teacher in teachers for digest in teacher.earlier_digests),
        compares=all(teacher.compares for teacher in teachers),
    )
