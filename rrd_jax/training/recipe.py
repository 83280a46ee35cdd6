"""What is chosen about a job, as frozen dataclasses of numbers, names and functions.

A Job is what a config says, checked. Its Trainings say how each network is trained; a Recipe is a
Training for a data set, whose numbers of classes and examples the config does not know.
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
    StartChoice,
    TeachingChoice,
)

# The same function for the same numbers: what is compiled with it can be shared.
_normalize = functools.cache(pipeline.make_normalize)


def _when_streamed(values: settings.Values) -> str:
    is_streamed = values["data.augment"] in source.HOST_AUGMENTATIONS
    return "images are streamed" if is_streamed or values["data.feed"] == "streamed" else ""


@dataclasses.dataclass(frozen=True)
class Training:
    """How one network is trained.

    Attributes:
      label: the run's name in lines of the console.
      network: the network.
      objectives: the terms of the loss.
      teacher_weights: of several teachers, adding up to 1; empty for one or none.
      optimizer: what moves the parameters.
      augment: what the step does to training images.
      mix: how the step mixes training images, or None.
      teacher_cache: whether the teacher's outputs are cached.
      start: the weights that the network begins with.
      alignment: what is compared with the teacher on held-out images.
      mean: Mean of each channel, of values in [0, 1].
      std: Standard deviation of each channel, likewise.
      seed: Initial weights, order and augmentation all follow from it.
      epochs: Passes over the training split.
      batch_size: Images of a step, over all devices; the last partial batch of an epoch is dropped.
      accumulate: Parts that a batch is walked in, one after the other, to save memory: each is
        normalised by its own statistics, and compared with the memory that the parts before it were
        pushed to.
      ema: Decay of an average of the student's weights, such as 0.9999, which is then what is
        tested and exported; 0 for none.
      remat: What of the trained network is computed twice, for memory: none; what is between
        convolutions, whose results are kept (convolutions); all that is inside residual blocks.
      shard_parameters: Devices share parameters, their average and the optimizer's state, instead
        of a copy on each.
      eval_batch_size: The most images of an evaluation step.
      steps_per_dispatch: The most steps that one call to the devices makes, where the set is
        resident. Between calls losses are looked at, checkpoints written and SIGTERM obeyed. 0: on
        accelerators a second's or so, on a CPU one.
      log_every: Steps between two looks at the losses.
      save_every: Steps between checkpoints inside an epoch; 0: at its end only.
      freeze: Parts whose weights and running statistics stay as they are, separated by |: stem,
        stage1, stage2 and so on, backbone (all but the classifier), or regular expressions for
        paths of modules or parameters, such as layer1_.*; '' for none.
      backbone_rate: Factor of the learning rate, for all but the classifier.
      fast_cpu: On a CPU: compiler options and forms of convolutions that are faster there; numbers
        differ by rounding. Without it grouped convolutions take many times as long.
    """

    label: str
    network: NetworkChoice
    objectives: tuple[ObjectiveChoice, ...]
    teacher_weights: tuple[float, ...]
    optimizer: OptimizerChoice
    augment: pipeline.Augment
    mix: mixing.Mix | None
    teacher_cache: CacheChoice
    start: StartChoice = dataclasses.field(default_factory=StartChoice)
    alignment: AlignmentChoice = dataclasses.field(default_factory=AlignmentChoice)
    mean: tuple[float, ...] = field("data.mean", (0.5071, 0.4867, 0.4408), kinds.MEAN)
    std: tuple[float, ...] = field("data.std", (0.2675, 0.2565, 0.2761), kinds.STD)
    seed: int = field("seed", 0, kinds.SEED)
    epochs: int = field("train.epochs", 240, kinds.COUNT)
    batch_size: int = field("train.batch_size", 64, kinds.COUNT)
    accumulate: int = field("train.accumulate", 1, kinds.COUNT)
    ema: float = field("train.ema", 0.0, kinds.PART)
    remat: str = field("train.remat", "none", kinds.Choice(("none", "convolutions", "all")))
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
        """What evaluation does to uint8 images."""
        return _normalize(self.mean, self.std)

    def frozen(
        self, network: networks.Network, image_shape: tuple[int, int, int]
    ) -> frozenset[str]:
        """The paths of the network's parameters that stay as they are.

        Raises:
          InputError: `freeze` is no pattern, names what is not there, or all there is.
        """
        if not self.freeze:
            return frozenset()
        head = frozenset(self.network.class_axes(network, image_shape))
        return networks.frozen_parts(
            network, image_shape, self.freeze, head, f"{self.start.section}.freeze"
        )

    def rates(self, network: networks.Network, image_shape: tuple[int, int, int]) -> Any:
        """The factor of the rate of each of the network's parameters; None where all are 1.

        Args:
          network: as `network.create` makes it.
          image_shape: (H, W, channels).

        Raises:
          InputError: the network has no numbered blocks, no part of that name, or no classifier to
            tell from the rest.
        """
        scales = self.optimizer.block_scales(self.network.model, network, image_shape)
        frozen = self.frozen(network, image_shape)
        if not frozen and self.backbone_rate == 1:
            return scales
        head = self.network.class_axes(network, image_shape)
        logits = networks.summarize(network, image_shape).outputs.logits
        if self.backbone_rate != 1 and not head and not isinstance(logits, tuple):
            raise errors.InputError(
                f"{self.start.section}.backbone_rate is {self.backbone_rate}, but network"
                f" '{self.network.model}' does not report its classifier, which keeps the whole"
                " rate: return its parameters as 'head', {'kernel', 'bias'}, in its Outputs"
            )
        params = networks.summarize(network, image_shape).variables["params"]
        if scales is None:
            scales = jax.tree.map(lambda _: 1.0, params)

        def factor(path, scale):
            name = networks.leaf_name(path)
            return 0.0 if name in frozen else scale * (1.0 if name in head else self.backbone_rate)

        return jax.tree_util.tree_map_with_path(factor, scales)

    def create_objectives(self, examples: int) -> dict[str, Objective]:
        """The objectives by name, for a training split of so many examples."""
        part = self.batch_size // self.accumulate
        terms = {}
        for choice in self.objectives:
            objective = choice.create(examples=examples, batch_size=part)
            if objective.needs_teacher and self.teacher_weights:
                objective = objectives.averaged(choice.name, objective, self.teacher_weights)
            terms[choice.name] = objective
        return terms


@dataclasses.dataclass(frozen=True)
class Part:
    """A run of a job.

    Attributes:
      training: how its network is trained.
      source: the images.
      fields: the config it came from, as JSON; kept in the run's folder, which belongs to it.
    """

    training: Training
    source: source.Source
    fields: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TeacherChoice:
    """A teacher.

    Attributes:
      network: the network as a teacher, which may compute in another precision than in training.
      checkpoint: where its weights are; "" to train it first.
      part: how it is trained then; its label is the name of its folder too.
      variables: weights that are in memory already; None where they are in the checkpoint.
      follows: whether it is trained for as many epochs as the student.
      teaching: how it sees images, and where its logits come from.
    """

    network: NetworkChoice
    checkpoint: str
    part: Part
    variables: Any = None
    follows: bool = False
    teaching: TeachingChoice = dataclasses.field(default_factory=TeachingChoice)


@dataclasses.dataclass(frozen=True)
class Job:
    """A student, the teachers it needs, and other runs of its network to compare it with.

    Attributes:
      student: the run that the job is for.
      comparisons: the other runs, by the names of their folders: "alone", with cross-entropy and
        no teacher; "scratch", as the student's, but from random weights.
      teachers: none, one or several.
      free_fields: fields of a Part that a resumed run may change: no number depends on them.
      default_fields: of fields that a workdir of an earlier version lacks, nested as Part's.
    """

    student: Part
    comparisons: Mapping[str, Part]
    teachers: tuple[TeacherChoice, ...]
    free_fields: tuple[str, ...] = ()
    default_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class CustomObjects:
    """Objects made in Python, by the names that a config has for them.

    Attributes:
      networks: Networks.
      variables: of networks that are teachers; others are trained first.
      objectives: Objectives.
      transform: as OptimizerChoice's.
      starts: variables that a student starts from, and what is known of them.
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
      objective: its loss.
      weight: factor in the total loss.
      warmup: epochs over which the weight grows to that; 0 for none.
    """

    objective: Objective
    weight: float = 1.0
    warmup: int = 0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A Training for a data set.

    Attributes:
      training: its numbers.
      student: the network.
      terms: of the total loss, by name.
      schedule: learning rate by step.
      first_rate: the rate after its warm-up.
      fixed: what of the student the optimizer leaves as it is: "", "classifier" or "student".
    """

    training: Training
    student: networks.Network
    terms: dict[str, Term]
    schedule: optax.Schedule
    first_rate: float | jax.Array
    fixed: str = ""

    @property
    def objectives(self) -> dict[str, Objective]:
        """The objectives by name."""
        return {name: term.objective for name, term in self.terms.items()}


def create(training: Training, num_classes: int, examples: int) -> Recipe:
    """The Recipe of a Training.

    Args:
      training: what to do.
      num_classes: C.
      examples: of the training split.

    Raises:
      InputError: an objective does not fit the data or the batch, or objectives do not go together.
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


def check_combination(terms: dict[str, Objective], ema: float, *, has_teacher: bool) -> None:
    """Raises an InputError where objectives lack a teacher, or get in each other's way."""
    objectives.check_teacher(terms, present=has_teacher)
    classifier = objectives.classifier(terms)
    if classifier and ema:
        raise errors.InputError(
            f"train.ema is {ema}, but the average would leave out what '{classifier}' classifies"
            " with; set it to 0"
        )
    first = [name for name, term in terms.items() if term.stage and term.stage.student]
    if len(first) > 1:
        raise errors.InputError(
            f"objectives {' and '.join(first)} each train the student before distillation; choose"
            " one"
        )
