"""The choices of a job, as frozen dataclasses of numbers, names and functions.

A Job is a checked config. Each Training of a job describes how one network is trained. A Recipe is
a Training applied to a data set, whose numbers of classes and examples are not in the config.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from rrd_jax import errors, networks, objectives, settings
from rrd_jax.data import source
from rrd_jax.data.augment import mixing, pipeline
from rrd_jax.objectives import Objective
from rrd_jax.settings import field, kinds
from rrd_jax.training.choices import (
    AlignmentChoice,
    CacheChoice,
    NetworkChoice,
    ObjectiveChoice,
    OptimizerChoice,
    ReportChoice,
    RobustnessChoice,
    StartChoice,
    TeachingChoice,
)

# Equal arguments return the same function, so that compiled programs are shared.
_normalize = functools.cache(pipeline.make_normalize)


def _when_streamed(values: settings.Values) -> str:
    is_streamed = values["data.augment"] in source.HOST_AUGMENTATIONS
    return "images are streamed" if is_streamed or values["data.feed"] == "streamed" else ""


def _if_single(values: settings.Values) -> str:
    return "" if len(values.labels) > 1 else "there is no second teacher"


@dataclasses.dataclass(frozen=True)
class Training:
    """The training of one network.

    Attributes:
      label: the run's name in console lines.
      network: the network.
      objectives: the terms of the loss.
      teacher_weights: the weights of several teachers, with a sum of 1; empty for fewer than two.
      teacher_objectives: for each of several teachers the names of the objectives that compare the
        student with it; empty for all.
      optimizer: the optimizer and its schedule.
      augment: the augmentation of training images in the train step.
      mix: the mixing of training images in the train step, or None.
      teacher_cache: whether and how the teacher's outputs are cached.
      start: the network's weights before the first step.
      alignment: the comparison with the teacher on held-out images.
      report: the trackers of its metrics.
      robustness: the evaluations of --mode=eval beyond accuracy.
      mean: Mean of each channel, for pixel values in [0, 1].
      std: Standard deviation of each channel, for pixel values in [0, 1].
      seed: Seed of the initial weights, the order of examples and the augmentation.
      epochs: Number of passes over the training split.
      batch_size: Number of images per step, over all devices. The last partial batch of an epoch is
        dropped.
      accumulate: Number of microbatches that a batch is split into to reduce memory (gradient
        accumulation). Each microbatch is normalized by its own statistics, and compared with the
        memory after the previous microbatches were pushed to it.
      drop_teachers: Probability with which each of several teachers is dropped for an image, as in
        UNIC; the teacher with the largest loss is always kept. 0 to keep all.
      ema: Decay of an average of the student's weights, such as 0.9999. The average replaces the
        weights in evaluation and export. 0 for no average.
      remat: Activations of the trained network that are recomputed in the backward pass, to reduce
        memory. none: no activations; convolutions: all except the results of convolutions; all: all
        activations inside residual blocks.
      mesh: Axes of the devices, such as data:8,model:4. Batches are split over all devices. Weights
        of student and teacher are sharded over `model`, whose devices are neighbors, and replicated
        over `data`. One size may be missing or -1 for all other devices.
      shard_parameters: Shards the weights of student and teacher, the student's average and the
        optimizer's state over all devices, instead of replicating them.
      eval_batch_size: Maximum number of images per evaluation step.
      steps_per_dispatch: Maximum number of steps per call to the devices, if the data set is
        resident. Between calls, losses are logged, checkpoints are written and SIGTERM is handled.
        0: about a second's worth of steps on accelerators, one step on a CPU.
      log_every: Steps between logged losses.
      save_every: Steps between checkpoints within an epoch; 0 to save only at the end of epochs.
      freeze: Parts whose weights and running statistics are not updated, separated by |: stem,
        stage1, stage2 and so on, backbone (all except the classifier), or regular expressions for
        paths of modules or parameters, such as layer1_.*; '' for none.
      backbone_rate: Factor of the learning rate of all parameters except the classifier.
      fast_cpu: Uses compiler options and forms of convolutions that are faster on a CPU; results
        differ by rounding. Without it, grouped convolutions on a CPU are many times slower.
    """

    label: str
    network: NetworkChoice
    objectives: tuple[ObjectiveChoice, ...]
    teacher_weights: tuple[float, ...]
    teacher_objectives: tuple[tuple[str, ...], ...]
    optimizer: OptimizerChoice
    augment: pipeline.Augment
    mix: mixing.Mix | None
    teacher_cache: CacheChoice
    start: StartChoice = dataclasses.field(default_factory=StartChoice)
    alignment: AlignmentChoice = dataclasses.field(default_factory=AlignmentChoice)
    report: ReportChoice = dataclasses.field(default_factory=ReportChoice)
    robustness: RobustnessChoice = dataclasses.field(default_factory=RobustnessChoice)
    mean: tuple[float, ...] = field("data.mean", (0.5071, 0.4867, 0.4408), kinds.MEAN)
    std: tuple[float, ...] = field("data.std", (0.2675, 0.2565, 0.2761), kinds.STD)
    seed: int = field("seed", 0, kinds.SEED)
    epochs: int = field("train.epochs", 240, kinds.COUNT)
    batch_size: int = field("train.batch_size", 64, kinds.COUNT)
    accumulate: int = field("train.accumulate", 1, kinds.COUNT)
    drop_teachers: float = field("train.drop_teachers", 0.0, kinds.PART, unused=_if_single)
    ema: float = field("train.ema", 0.0, kinds.PART)
    remat: str = field("train.remat", "none", kinds.Choice(("none", "convolutions", "all")))
    mesh: tuple[tuple[str, int], ...] = field(
        "mesh", "data", kinds.Axes(("data", "model")), changeable=True
    )
    shard_parameters: bool = field("shard_parameters", False, kinds.Flag(), changeable=True)
    eval_batch_size: int = field("train.eval_batch_size", 500, kinds.COUNT)
    steps_per_dispatch: int = field(
        "train.steps_per_dispatch", 0, kinds.Integer(0), changeable=True, unused=_when_streamed
    )
    log_every: int = field("train.log_every", 50, kinds.COUNT, changeable=True)
    save_every: int = field("train.save_every", 0, kinds.Integer(0), changeable=True)
    freeze: str = field("student.freeze", "", kinds.Text())
    backbone_rate: float = field("student.backbone_rate", 1.0, kinds.FACTOR)
    fast_cpu: bool = field("fast_cpu", True, kinds.Flag())

    @property
    def normalize(self) -> Callable[[jax.Array], jax.Array]:
        """The normalization of uint8 images in evaluation."""
        return _normalize(self.mean, self.std)

    def frozen(
        self, network: networks.Network, image_shape: tuple[int, int, int]
    ) -> frozenset[str]:
        """Returns the paths of the network's frozen parameters.

        Raises:
          InputError: `freeze` is not a valid pattern, or it matches no parameter or all parameters.
        """
        if not self.freeze:
            return frozenset()
        head = frozenset(self.network.class_axes(network, image_shape))
        return networks.frozen_parts(
            network, image_shape, self.freeze, head, f"{self.start.section}.freeze"
        )

    def rates(self, network: networks.Network, image_shape: tuple[int, int, int]) -> Any:
        """Returns the learning rate factor of each of the network's parameters, or None.

        Args:
          network: the result of `self.network.create`.
          image_shape: (H, W, channels).

        Returns:
          The factors, with the structure of the parameters; None if all factors are 1.

        Raises:
          InputError: the network has no numbered blocks, a part of `freeze` does not exist, the
            optimizer is schedule-free and a factor is not 1, or the network does not report the
            classifier that `backbone_rate` excludes.
        """
        scales = self.optimizer.block_scales(self.network.model, network, image_shape)
        frozen = self.frozen(network, image_shape)
        is_scaled = scales is not None or bool(frozen) or self.backbone_rate != 1
        if is_scaled and self.optimizer.keeps_average():
            raise errors.InputError(
                "a schedule-free optimizer has one learning rate for all parameters, since it"
                " averages them; set optimizer.layer_decay and"
                f" {self.start.section}.backbone_rate to 1 and {self.start.section}.freeze to '',"
                " or choose another optimizer.name"
            )
        if not frozen and self.backbone_rate == 1:
            return scales
        head = self.network.class_axes(network, image_shape)
        logits = networks.summarize(network, image_shape).outputs.logits
        if self.backbone_rate != 1 and not head and not isinstance(logits, tuple):
            raise errors.InputError(
                f"{self.start.section}.backbone_rate is {self.backbone_rate}, but network"
                f" '{self.network.model}' does not report its classifier, to which the factor does"
                " not apply; return the classifier's parameters as 'head', {'kernel', 'bias'}, in"
                " its Outputs"
            )
        params = networks.summarize(network, image_shape).variables["params"]
        if scales is None:
            scales = jax.tree.map(lambda _: 1.0, params)

        def factor(path, scale):
            name = networks.leaf_name(path)
            return 0.0 if name in frozen else scale * (1.0 if name in head else self.backbone_rate)

        return jax.tree_util.tree_map_with_path(factor, scales)

    def create_objectives(self, examples: int) -> dict[str, Objective]:
        """Returns the objectives by name, for a training split of `examples` images."""
        # With accumulated gradients, objectives count microbatches.
        steps_per_epoch = examples // self.batch_size * self.accumulate
        sizes = {
            "examples": examples,
            "batch_size": self.batch_size // self.accumulate,
            "steps_per_epoch": steps_per_epoch,
            "total_steps": self.epochs * steps_per_epoch,
        }
        terms = {}
        for choice in self.objectives:
            objective = choice.create(**sizes)
            if objective.needs_teacher and self.teacher_weights:
                weights = self._weights(choice.name)
                objective = objectives.averaged(
                    choice.name, objective, weights, drop=self.drop_teachers
                )
            terms[choice.name] = objective
        return terms

    def _weights(self, name: str) -> list[float]:
        """Returns the weights of the teachers in an objective, with a sum of 1."""
        pairs = zip(self.teacher_weights, self.teacher_objectives, strict=True)
        weights = [weight if not names or name in names else 0.0 for weight, names in pairs]
        total = sum(weights)
        if not total:
            raise errors.InputError(
                f"objective '{name}' compares the student with no teacher, because the field"
                f" objectives of each teacher omits it; add {name} to one of them, such as"
                f" teacher[0].objectives, or remove objectives.{name}"
            )
        return [weight / total for weight in weights] if 0.0 in weights else weights

    def reads_patches(self, examples: int) -> bool:
        """Returns True if an objective compares the teacher's patches; see `create_objectives`."""
        return any(term.needs_patches for term in self.create_objectives(examples).values())


@dataclasses.dataclass(frozen=True)
class Part:
    """A run of a job.

    Attributes:
      training: the training of the run's network.
      source: the images.
      fields: the run's config as JSON; stored in the run folder to identify its run.
    """

    training: Training
    source: source.Source
    fields: dict[str, Any]

    def with_rows(self, examples: int, recorded: Mapping[str, Any] | None = None) -> "Part":
        """Returns the run with the number of rows of each memory whose size is "auto".

        Args:
          examples: number of training images.
          recorded: the config that the run folder records, whose sizes are used; None for a new
            run, or if `config.parse` has used them.
        """
        training = self.training
        pushed = examples // training.batch_size * training.batch_size
        stored = (recorded or {}).get("objectives", {})
        chosen = tuple(
            choice.with_rows(pushed, examples, stored.get(choice.name))
            for choice in training.objectives
        )
        changed = {
            f"objectives.{new.name}.{option}": rows
            for old, new in zip(training.objectives, chosen, strict=True)
            for option, rows in new.options.items()
            if rows != old.options[option]
        }
        part = dataclasses.replace(self, training=dataclasses.replace(training, objectives=chosen))
        return part.with_fields(changed)

    def with_fields(self, values: Mapping[str, Any]) -> "Part":
        """Returns the run with other values in `fields`, which config.json records.

        For fields that were "auto" until the data set was open; see `settings.field`.

        Args:
          values: JSON values by path, such as {"objectives.rrd.queue_size": 512}.
        """
        fields = self.fields
        for path, value in values.items():
            fields = _with_value(fields, path.split("."), value)
        return dataclasses.replace(self, fields=fields)


def _with_value(tree: dict[str, Any], names: list[str], value: Any) -> dict[str, Any]:
    """Returns a copy of nested dicts with one value replaced."""
    first, *rest = names
    return tree | {first: _with_value(tree[first], rest, value) if rest else value}


@dataclasses.dataclass(frozen=True)
class TeacherChoice:
    """A teacher.

    Attributes:
      network: the network as a teacher, whose precision may differ from that of its training.
      checkpoint: location of the teacher's weights; "" to train the teacher first.
      part: the run that trains the teacher; its label is also the name of its folder.
      variables: weights in memory; None if the weights are in the checkpoint.
      follows: whether the teacher is trained for as many epochs as the student.
      teaching: the teacher's preprocessing and the source of its logits.
    """

    network: NetworkChoice
    checkpoint: str
    part: Part
    variables: Any = None
    follows: bool = False
    teaching: TeachingChoice = dataclasses.field(default_factory=TeachingChoice)

    @property
    def is_trained_here(self) -> bool:
        """True if the job trains the teacher before the student."""
        return self.variables is None and not self.checkpoint


@dataclasses.dataclass(frozen=True)
class Job:
    """A student's run, its teachers, and further runs of the student's network for comparison.

    Attributes:
      student: the student's run.
      comparisons: runs for comparison by folder name: "alone", with cross-entropy and no teacher;
        "scratch", the student's training from random weights.
      teachers: any number of teachers.
      free_fields: config fields that a resumed run may change, since no result depends on them.
      default_fields: default values of fields that run folders of earlier versions lack, nested as
        `Part.fields`.
    """

    student: Part
    comparisons: Mapping[str, Part]
    teachers: tuple[TeacherChoice, ...]
    free_fields: tuple[str, ...] = ()
    default_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def with_rows(self, examples: int, recorded: Mapping[str, Any] | None = None) -> "Job":
        """Returns the job with the number of rows of each memory, see `Part.with_rows`."""
        comparisons = {
            name: part.with_rows(examples, recorded) for name, part in self.comparisons.items()
        }
        student = self.student.with_rows(examples, recorded)
        return dataclasses.replace(self, student=student, comparisons=comparisons)


@dataclasses.dataclass(frozen=True)
class CustomObjects:
    """Python objects that a config refers to by name.

    Attributes:
      networks: Networks by name.
      variables: variables of teachers by network name; teachers without an entry are trained first.
      objectives: Objectives by name.
      transform: see OptimizerChoice.
      starts: (a network's initial variables, their metadata) by name.
    """

    networks: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    objectives: Mapping[str, Objective] = dataclasses.field(default_factory=dict)
    transform: Callable | optax.GradientTransformation | None = None
    starts: Mapping[str, tuple[Any, Mapping[str, Any]]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Term:
    """A term of the total loss.

    Attributes:
      objective: the objective.
      weight: factor of its loss in the total loss.
      warmup: number of epochs over which the factor grows linearly to `weight`; 0 for no warm-up.
    """

    objective: Objective
    weight: float = 1.0
    warmup: int = 0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A Training applied to a data set.

    Attributes:
      training: the training.
      student: the network.
      terms: terms of the total loss by name.
      schedule: learning rate by step.
      first_rate: the learning rate after its warm-up.
      fixed: part of the student that the optimizer does not update: "" (none), "classifier" or
        "student".
    """

    training: Training
    student: networks.Network
    terms: dict[str, Term]
    schedule: optax.Schedule
    first_rate: float | jax.Array
    fixed: str = ""

    @property
    def objectives(self) -> dict[str, Objective]:
        """The terms' objectives by name."""
        return {name: term.objective for name, term in self.terms.items()}

    @property
    def reads_patches(self) -> bool:
        """True if an objective compares the teacher's patches."""
        return any(objective.needs_patches for objective in self.objectives.values())


def create(training: Training, num_classes: int, examples: int) -> Recipe:
    """Creates the Recipe of a Training.

    Args:
      training: the training.
      num_classes: number of classes C.
      examples: number of examples in the training split.

    Raises:
      InputError: an objective does not fit the data or the batch.
    """
    terms = training.create_objectives(examples)
    optimizer, steps_per_epoch = training.optimizer, examples // training.batch_size
    schedule = optimizer.schedule(training.epochs, steps_per_epoch)
    return Recipe(
        training=training,
        student=training.network.create(num_classes),
        terms={
            choice.name: Term(terms[choice.name], choice.weight, choice.warmup)
            for choice in training.objectives
        },
        schedule=schedule,
        first_rate=optimizer.first_rate(schedule, steps_per_epoch),
    )


def check_combination(
    training: Training, terms: dict[str, Objective], *, has_teacher: bool
) -> None:
    """Raises an InputError for objectives without their teacher and for invalid combinations."""
    objectives.check_teacher(terms, present=has_teacher)
    second = [name for name, term in terms.items() if term.needs_second]
    if second and training.mix:
        raise errors.InputError(
            f"data.mix mixes images, but objective '{second[0]}' compares two views of an image, of"
            " which the second is not mixed; set data.mix to none"
        )
    classifier = objectives.classifier(terms)
    if classifier and training.ema:
        raise errors.InputError(
            f"train.ema is {training.ema}, but must be 0 with '{classifier}', whose classifier is"
            " not averaged; set train.ema to 0"
        )
    first = [name for name, term in terms.items() if term.stage and term.stage.student]
    if len(first) > 1:
        raise errors.InputError(
            f"objectives {' and '.join(first)} each train the student before distillation; choose"
            " one of them"
        )
