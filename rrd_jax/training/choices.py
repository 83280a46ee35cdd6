"""A network, an objective and an optimizer as they are chosen: by name, or made in Python."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rrd_jax import errors, imports, networks, objectives, optim
from rrd_jax.objectives import Objective

HEADS = ("auto", "new", "keep")
INTERPOLATIONS = ("bilinear", "bicubic")
CACHES = ("auto", "on", "off")
CACHE_PLACES = ("auto", "device", "host", "file")
CACHE_DTYPES = ("auto", "float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class StartChoice:
    """What the weights of a network are before its first step.

    Attributes:
      checkpoint: where they are, as `weights.files.load` has it; "" for random ones.
      head: whether the classifier is theirs: "keep", "new", or "auto" for where the classes agree.
      variables: weights that are in memory, in place of a checkpoint; None for none.
      meta: what is known of these, as `weights.files.load` gives it.
      section: of the config that says all this, for messages.
      ready: what `pretrained.read` made of them; None where that is still to be done.
    """

    checkpoint: str = ""
    head: str = "auto"
    variables: Any = dataclasses.field(default=None, compare=False, repr=False)
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    section: str = "student"
    ready: Any = dataclasses.field(default=None, compare=False, repr=False)

    def __bool__(self) -> bool:
        """Whether there are weights to start from."""
        return bool(self.checkpoint) or self.variables is not None


@dataclasses.dataclass(frozen=True)
class TeachingChoice:
    """How a teacher sees images, and where its logits come from.

    Attributes:
      section: of the config that says all this, for messages.
      label: what the console calls the teacher, and the beginning of its folders' names.
      mean: of each channel, in [0, 1] units; None for what its weights say, else the student's.
      std: likewise.
      image_size: height and width of its images; None likewise.
      interpolation: "bilinear" or "bicubic", where image_size is not the student's; "" for what its
        weights say.
      probe: whether a linear classifier is trained on its embeddings.
      probe_l2: the weight of that one's penalty, as `teacher.probe.fit` has it.
      class_vectors: file of a vector for each class, which its logits are cosines to; "" for none.
      class_vectors_scale: times the cosines.
    """

    section: str = "teacher"
    label: str = "teacher"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: int | None = None
    interpolation: str = ""
    probe: bool = False
    probe_l2: float = 1.0
    class_vectors: str = ""
    class_vectors_scale: float = 100.0

    @property
    def classifier(self) -> str:
        """What makes its logits in place of its own classifier, in words; "" for nothing."""
        return "linear probe" if self.probe else "zero-shot" if self.class_vectors else ""


@dataclasses.dataclass(frozen=True)
class ProofChoice:
    """What of a student is compared with its teacher on held-out images while it is trained.

    Attributes:
      on: whether figures without labels are.
      images: held-out images, at most.
      every: epochs between two looks; the last epoch always has one.
      knn: whether nearest images and a linear probe classify, at the end.
      labelled: other images with labels by which they do so at each look, as
        `data.subsets.labelled_subset.open_few` has it; "" for none.
      per_class: how many of these there are of each class, test images aside; 0 for all.
    """

    on: bool = False
    images: int = 2000
    every: int = 1
    knn: bool = False
    labelled: str = ""
    per_class: int = 0

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return self.on or self.classifies

    @property
    def classifies(self) -> bool:
        """Whether embeddings are judged by labels."""
        return self.knn or bool(self.labelled)


@dataclasses.dataclass(frozen=True)
class CacheChoice:
    """Whether a teacher is remembered, instead of running at each step.

    Attributes:
      use: "on", "off", or "auto" for where it pays.
      place: of its embeddings: "device", "host", "file", or "auto" for the first that fits.
      dtype: of them: "float32", "bfloat16", or "auto" for as they are computed.
    """

    use: str = "off"
    place: str = "auto"
    dtype: str = "auto"


@dataclasses.dataclass(frozen=True)
class NetworkChoice:
    """A network by name, and the precision it computes in.

    Attributes:
      model: a key of `networks.MODELS`, or an import path.
      dtype: of its convolutions.
      space_to_depth: as `networks.create` has it.
      options: of a network by import path.
      prefix: of their fields, such as "student.options.".
      network: one that was made in Python, which takes the place of all this but the name.
      drop_path: as `networks.create` has it.
    """

    model: str
    dtype: jnp.dtype
    space_to_depth: bool = False
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prefix: str = ""
    network: networks.Network | None = None
    drop_path: float = 0.0

    def create(self, num_classes: int) -> networks.Network:
        """The network, without weights.

        Args:
          num_classes: C; 0 for none, where a user's network has one, which nothing trains.
        """
        if self.network is not None:
            networks.check_drop_path(self.network, self.drop_path, self.model, self.prefix)
            return self.network
        return networks.create(
            self.model,
            num_classes or int(imports.is_path(self.model)),
            dtype=self.dtype,
            space_to_depth=self.space_to_depth,
            options=self.options,
            prefix=self.prefix,
            drop_path=self.drop_path,
        )

    def class_axes(
        self, network: networks.Network, image_shape: tuple[int, int, int]
    ) -> dict[str, int]:
        """The parameters with an entry for each class, and which of their axes is the classes'.

        Args:
          network: as this choice makes it.
          image_shape: (H, W, channels).

        Returns:
          {path such as fc/kernel: axis}; empty for a network made in Python that reports no head.
        """
        summary = networks.summarize(network, image_shape)
        if isinstance(summary.outputs.logits, tuple):
            return {}
        if summary.classifier:
            head = "/".join(summary.classifier)
            return {f"{head}/kernel": 1, f"{head}/bias": 0}
        if self.network is not None:
            return {}
        more = self.create(summary.outputs.logits.shape[-1] + 1)
        pairs = [
            networks.named_shapes(of.variables["params"])
            for of in (summary, networks.summarize(more, image_shape))
        ]
        axes = {}
        for name in pairs[0].keys() & pairs[1].keys():
            shapes = pairs[0][name], pairs[1][name]
            differing = [i for i, (a, b) in enumerate(zip(*shapes, strict=False)) if a != b]
            axes |= dict.fromkeys([name] if differing else [], (differing or [0])[0])
        return axes


@dataclasses.dataclass(frozen=True)
class ObjectiveChoice:
    """A term of the total loss by name.

    Attributes:
      name: a key of `objectives.OBJECTIVES`, or any other with a `factory`.
      weight: factor in the total loss.
      warmup: epochs over which the weight grows to that; 0 for none.
      options: of the objective's factory.
      factory: import path of a user's objective; "" for one of ours.
      objective: one that was made in Python, which takes the place of options and factory.
    """

    name: str
    weight: float
    warmup: int
    options: Mapping[str, Any]
    factory: str = ""
    objective: Objective | None = None

    @property
    def needs_classes(self) -> bool:
        """Whether the teacher's classes must be the student's, as `objectives.Record` has it."""
        if not self.weight:
            return False
        return (
            self.objective is not None or objectives.record(self.name, self.factory).needs_classes
        )

    def create(self, **known: int) -> Objective:
        """The objective; options that are None take what is known of the data and the batch."""
        if self.objective is not None:
            return self.objective
        options = dict(self.options)
        what, prefix = f"objective '{self.factory or self.name}'", f"objectives.{self.name}."
        factory = objectives.record(self.name, self.factory).factory
        imports.check_types(what, factory, options, prefix=prefix)
        for option, value in known.items():
            takes = objectives.takes(self.name, option, self.factory)
            if takes and options.get(option) is None:
                options[option] = value
        try:
            return objectives.create(self.name, self.factory, **options)
        except errors.InputError as error:
            if str(error).split()[0] in options:  # a factory does not know whose they are
                raise errors.InputError(f"{prefix}{error}") from error
            if prefix in str(error) or f"'{self.factory or self.name}'" in str(error):
                raise
            raise errors.InputError(f"{what}: {error}") from error


@dataclasses.dataclass(frozen=True)
class OptimizerChoice:
    """An optimizer and its schedule, as names and numbers.

    Attributes:
      name: as `optim.create` has it, with options, momentum, nesterov, weight_decay,
        decay_norm_and_bias and clip_norm.
      schedule_name: as `optim.create_schedule` has it, with schedule_options and the others.
      layer_decay: as `optim.block_scales` has it; 1 for none.
      transform: an optimizer that was made in Python, which takes the place of the name and its
        numbers: a function of the schedule, or a transformation that knows its rates itself.
    """

    learning_rate: float
    milestones: tuple[float, ...] = ()
    decay: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    name: str = "sgd"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    nesterov: bool = False
    decay_norm_and_bias: bool = True
    layer_decay: float = 1.0
    schedule_name: str = "milestones"
    schedule_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    warmup_epochs: float = 0.0
    warmup_start: float = 0.0
    final_learning_rate: float = 0.0
    transform: Callable | optax.GradientTransformation | None = None

    def schedule(self, epochs: int, steps_per_epoch: int) -> optax.Schedule:
        """Learning rate by step; NaN where a transformation keeps it for itself."""
        if isinstance(self.transform, optax.GradientTransformation):
            return optax.constant_schedule(math.nan)
        return optim.create_schedule(
            self.schedule_name,
            learning_rate=self.learning_rate,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            warmup_epochs=self.warmup_epochs,
            warmup_start=self.warmup_start,
            final_learning_rate=self.final_learning_rate,
            milestones=self.milestones,
            decay=self.decay,
            options=self.schedule_options,
        )

    def first_rate(self, schedule: optax.Schedule, steps_per_epoch: int) -> float | jax.Array:
        """The rate after the warm-up, for what is trained at one rate."""
        rate = schedule(optim.warmup_length(self.warmup_epochs, steps_per_epoch))
        return rate if rate > 0 else self.learning_rate  # a user's schedule may warm up by itself

    def transformation(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """What moves the parameters, at the rates of a schedule; without layer decay."""
        if self.transform is not None:
            return optim.checked(self.transform, schedule)
        return optim.create(
            self.name,
            schedule,
            options=self.options,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            decay_norm_and_bias=self.decay_norm_and_bias,
            clip_norm=self.clip_norm,
        )

    def block_scales(
        self, name: str, network: networks.Network, image_shape: tuple[int, int, int]
    ) -> Any:
        """The factor of the rate of each of a network's parameters; None for no layer decay.

        Args:
          name: of the network.
          network: the network.
          image_shape: (H, W, channels).

        Raises:
          InputError: the network has no numbered blocks.
        """
        if self.layer_decay == 1:
            return None
        variables = jax.eval_shape(lambda: networks.init(network, jax.random.key(0), image_shape))
        rest = {key: value for key, value in variables.items() if key != "params"}

        def apply(params, given):
            rest, images = given
            outputs = network.apply({"params": params, **rest}, images, train=False)
            return outputs.embedding if isinstance(outputs.logits, tuple) else outputs.logits

        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        params = variables["params"]
        return optim.block_scales(self.layer_decay, apply, params, (rest, images), name)
