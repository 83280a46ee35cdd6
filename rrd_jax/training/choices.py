"""Networks, objectives, optimizers and their options as they are chosen: by name, or in Python."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rrd_jax import errors, imports, networks, objectives, optim, settings
from rrd_jax.data.augment import mixing, pipeline
from rrd_jax.data.augment.views import Views
from rrd_jax.data.source import Source
from rrd_jax.objectives import Objective
from rrd_jax.settings import field, unless
from rrd_jax.settings.kinds import (
    CHANCE,
    COUNT,
    FACTOR,
    MEAN,
    PART,
    PIXELS,
    RATE,
    RATIO,
    SEED,
    STD,
    Choice,
    Flag,
    Integer,
    Mapped,
    Numbers,
    Optional,
    Real,
    Text,
)

DTYPES = ("auto", "float32", "bfloat16")
HEADS = ("auto", "new", "keep")
INTERPOLATIONS = ("bilinear", "bicubic")
CACHES = ("auto", "on", "off")
CACHE_PLACES = ("auto", "device", "host", "file")
CACHE_DTYPES = ("auto", "float32", "bfloat16")
_IF_TEACHER = unless("teacher.model")
_IF_CACHED = unless("teacher.cache", "auto", "on")
_IF_MIXED = unless("data.mix", "mixup", "cutmix", "mixup+cutmix")
_IF_BOTH_MIXED = unless("data.mix", "mixup+cutmix")
_IF_MILESTONES = unless("optimizer.schedule", "milestones")


def _without_teacher(values: settings.Values) -> str:
    return "" if values.with_models() else "there is no teacher"


def _without_changes(values: settings.Values) -> str:
    names = ("jitter", "grey", "gaussian_blur", "solarize", "erase", "views.others")
    is_changed = any(values[f"data.{name}"] for name in names if name != "jitter")
    if is_changed or any(values["data.jitter"]) or values["data.policy"] != "none":
        return ""
    return "nothing comes after the crop"


def _when_pretrained(values: settings.Values) -> str:
    """Returns the reason for fields of the training of a teacher whose weights are given."""
    if values["teacher.checkpoint"] and not values["teacher.fine_tune"]:
        label = values.label
        return f"{label}.checkpoint is trained already, and {label}.fine_tune False"
    return ""


def _alone(values: settings.Values) -> str:
    return "there is one teacher" if values.labels == ("teacher",) else ""


def _between_figures(values: settings.Values) -> str:
    is_used = values["eval.proof"] or values["eval.labelled"]
    return "" if is_used else "eval.proof is False"


def _with_other_images(values: settings.Values) -> str:
    return "eval.labelled names other images" if values["eval.labelled"] else ""


_IF_TRAINED = (_IF_TEACHER, _when_pretrained)


@settings.described
@dataclasses.dataclass(frozen=True)
class AugmentChoice:
    """The augmentation of the compiled step.

    Attributes:
      changes: what else is done to images at random.
    """

    pad: int = field(
        "data.pad",
        4,
        Integer(0, 16383),
        "crop_flip only: pixels of black on each side; at most data.image_size.",
        unused=unless("data.augment", "crop_flip"),
    )
    flip: bool = field(
        "data.flip",
        True,
        Flag(),
        "Mirrors half of the images; crop_flip and resized_crop.",
        unused=unless("data.augment", "crop_flip", "resized_crop"),
    )
    teacher_views: str = field(
        "data.views.teacher",
        "same",
        Choice(pipeline.TEACHERS_VIEWS),
        "same: the teacher sees what the student sees; weak: the crop alone, without what"
        " follows here.",
        unused=_without_changes,
    )
    changes: pipeline.Changes = dataclasses.field(default_factory=pipeline.Changes)

    def create(
        self, source: Source, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> pipeline.Augment:
        """Returns the augmentation of a source's images.

        Args:
          source: the images.
          mean: of each channel, in [0, 1] units.
          std: likewise.
        """
        return pipeline.make_augment(
            source.augment,
            mean=mean,
            std=std,
            pad=self.pad,
            flip=self.flip,
            area=source.crop_area,
            changes=self.changes,
            views=Views(source.views, source.views_seed),
            teacher=self.teacher_views,
        )


@settings.described
@dataclasses.dataclass(frozen=True)
class MixChoice:
    """How the step mixes the training images of a batch."""

    kind: str = field(
        "data.mix",
        "none",
        Choice(mixing.MIXES),
        "Mixes each training image with another of its batch; the teacher sees the mixture."
        " mixup+cutmix draws one of the two for each batch.",
    )
    alpha: float = field(
        "data.mix_alpha",
        1.0,
        Real(minimum=0.001, maximum=1000.0),
        "The share of an image is drawn from Beta(alpha, alpha).",
        unused=_IF_MIXED,
    )
    cutmix_alpha: float = field(
        "data.cutmix_alpha",
        1.0,
        Real(minimum=0.001, maximum=1000.0),
        "mixup+cutmix only: alpha of cutmix; data.mix_alpha is then mixup's (DeiT: 0.8).",
        unused=_IF_BOTH_MIXED,
    )
    switch: float = field(
        "data.mix_switch",
        0.5,
        CHANCE,
        "mixup+cutmix only: the share of batches with cutmix.",
        unused=_IF_BOTH_MIXED,
    )
    probability: float = field(
        "data.mix_probability",
        1.0,
        CHANCE,
        "Probability that a batch is mixed at all.",
        unused=_IF_MIXED,
    )

    def create(self) -> mixing.Mix | None:
        """Returns the function that mixes a batch; None for none."""
        return mixing.make_mix(
            self.kind,
            self.alpha,
            cutmix_alpha=self.cutmix_alpha,
            switch=self.switch,
            probability=self.probability,
        )


@settings.described
@dataclasses.dataclass(frozen=True)
class StartChoice:
    """The weights of a network before its first step.

    Attributes:
      variables: weights that are in memory, in place of a checkpoint; None for none.
      meta: what is known of these, as `weights.files.load` returns it.
      section: the section of the config, for messages.
    """

    checkpoint: str = field(
        "student.checkpoint",
        "",
        Text(),
        "Weights that it starts from, as teacher.checkpoint has them; '' for random ones. They"
        " are read before the first step, and never again.",
    )
    head: str = field(
        "student.head",
        "auto",
        Choice(HEADS),
        "The classifier of weights that it starts from: keep, new, or auto, which keeps it"
        " where the classes are as many, and have the same names where these are known.",
        unused=unless("student.checkpoint"),
    )
    variables: Any = dataclasses.field(default=None, compare=False, repr=False)
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    section: str = "student"

    def __bool__(self) -> bool:
        """Returns True if there are weights to start from."""
        return bool(self.checkpoint) or self.variables is not None


@settings.described
@dataclasses.dataclass(frozen=True)
class TeachingChoice:
    """How a teacher sees images, and where its logits come from.

    Attributes:
      section: the section of the config, for messages.
      label: the teacher's name in lines of the console, and the beginning of its folders' names.
    """

    section: str = "teacher"
    label: str = "teacher"
    mean: tuple[float, ...] | None = field(
        "teacher.mean",
        None,
        Optional(MEAN),
        "Mean of the images that it sees. None: as its weights say (config.json beside a file,"
        " the run), else as data.mean. What differs is applied on the device, before its first"
        " layer.",
        unused=_IF_TEACHER,
    )
    std: tuple[float, ...] | None = field(
        "teacher.std",
        None,
        Optional(STD),
        "Their standard deviation. None: likewise, else as data.std.",
        unused=_IF_TEACHER,
    )
    image_size: int | None = field(
        "teacher.image_size",
        None,
        Optional(PIXELS),
        "Their height and width. None: likewise, else as data.image_size.",
        unused=_IF_TEACHER,
    )
    interpolation: str = field(
        "teacher.interpolation",
        "auto",
        Choice(("auto", *INTERPOLATIONS)),
        "How images are scaled to its image_size, antialiased, where that is another. auto: as"
        " its weights say, else bilinear.",
        unused=_IF_TEACHER,
    )
    probe: bool = field(
        "teacher.probe",
        False,
        Flag(),
        "Trains a linear classifier on its embeddings of the training images, seen as test"
        " images are, in place of its own: a teacher without one, or with other classes, has"
        " logits then.",
        unused=_IF_TEACHER,
    )
    probe_l2: float = field(
        "teacher.probe_l2",
        1.0,
        Real(above=0, maximum=1000000000.0),
        "Regularisation of the probe, scikit-learn's 1 / C: sum of the images' losses +"
        " probe_l2 / 2 |W|^2, on standardised embeddings.",
        unused=(_IF_TEACHER, unless("teacher.probe")),
    )
    class_vectors: str = field(
        "teacher.class_vectors",
        "",
        Text(),
        "A .npy, .npz or .safetensors file of a vector for each class [C, D], such as a text"
        " encoder's: logits are cosines to them (zero-shot). D is that of its embedding, or of"
        " its classifier, which is then CLIP's projection.",
        unused=_IF_TEACHER,
    )
    class_vectors_scale: float = field(
        "teacher.class_vectors_scale",
        100.0,
        Real(above=0, maximum=1000000.0),
        "Factor of the cosines; exp(logit_scale) of CLIP.",
        unused=(_IF_TEACHER, unless("teacher.class_vectors")),
    )

    @property
    def classifier(self) -> str:
        """What makes its logits in place of its own classifier, in words; "" for nothing."""
        return "linear probe" if self.probe else "zero-shot" if self.class_vectors else ""


@settings.described
@dataclasses.dataclass(frozen=True)
class ProofChoice:
    """The comparison of a student with its teacher on held-out images during training."""

    on: bool = field(
        "eval.proof",
        False,
        Flag(),
        "Whether the student's embeddings of held-out images are compared with the teacher's,"
        " which needs no label.",
        changeable=True,
        unused=_without_teacher,
    )
    images: int = field(
        "eval.proof_images",
        2000,
        Integer(3),
        "The most held-out images for eval.proof.",
        changeable=True,
        unused=(_without_teacher, unless("eval.proof")),
    )
    every: int = field(
        "eval.every",
        1,
        COUNT,
        "Epochs between two looks at them; the last epoch always has one.",
        changeable=True,
        unused=(_without_teacher, _between_figures),
    )
    knn: bool = field(
        "eval.knn",
        False,
        Flag(),
        "Whether nearest images and a linear probe classify test images at the end, by"
        " embeddings of the student, of the teacher, and of a student with random weights.",
        changeable=True,
        unused=(_without_teacher, _with_other_images),
    )
    labelled: str = field(
        "eval.labelled",
        "",
        Text(),
        "Other images with labels, by which eval.knn is done at each look, also for data"
        " without labels: a folder with a folder for each class, or with train and test, or a"
        " name as in data.name.",
        changeable=True,
        unused=_without_teacher,
    )
    per_class: int = field(
        "eval.labelled_per_class",
        0,
        Integer(0),
        "How many of eval.labelled's training images there are of each class; 0 for all.",
        changeable=True,
        unused=(_without_teacher, unless("eval.labelled")),
    )

    def __bool__(self) -> bool:
        """Returns True if there is anything to compare."""
        return self.on or self.classifies

    @property
    def classifies(self) -> bool:
        """Whether embeddings are judged by labels."""
        return self.knn or bool(self.labelled)


@settings.described
@dataclasses.dataclass(frozen=True)
class CacheChoice:
    """Whether a teacher's outputs are cached, instead of running the teacher at each step."""

    use: str = field(
        "teacher.cache",
        "auto",
        Choice(CACHES),
        "Remembers the teacher's embeddings of all views of the training images (162 of each"
        " with crop_flip, otherwise data.views.count), instead of running it at each step: in"
        " memory, and on disk beside the teacher for later runs. auto: where there is room and"
        " there are more epochs than views, or they are on disk already.",
        unused=_IF_TEACHER,
    )
    place: str = field(
        "teacher.cache_place",
        "auto",
        Choice(CACHE_PLACES),
        "Where steps read them: device, or with data.views.count host, its memory, or file, a"
        " file's pages. auto: the first that half of the device or a quarter of the host has"
        " room for.",
        changeable=True,
        unused=(_IF_TEACHER, _IF_CACHED),
    )
    dtype: str = field(
        "teacher.cache_dtype",
        "auto",
        Choice(CACHE_DTYPES),
        "What they are kept in. auto: what the teacher computes in, logits in float32; bfloat16"
        " keeps three digits of each number, in half of the memory.",
        unused=(_IF_TEACHER, _IF_CACHED),
    )


@settings.described
@dataclasses.dataclass(frozen=True)
class TeacherFields:
    """A teacher's network and weights, and its training where it is trained here."""

    model: str = field(
        "teacher.model",
        "",
        Text(),
        "As student.model; '' for a run without a teacher.",
        overrides="student.model",
    )
    options: Mapping[str, Any] = field(
        "teacher.options",
        {},
        Mapped(),
        "As student.options.",
        unused=_IF_TEACHER,
        overrides="student.options",
    )
    checkpoint: str = field(
        "teacher.checkpoint",
        "",
        Text(),
        "The workdir of a run, or RUN@best, RUN@last, RUN@STEP; a folder of rrd_jax.convert; a"
        " .pth or .safetensors file, or FILE@KEY for the weights under a key of it; hf:FOLDER,"
        " a folder of transformers, which names teacher.model if that is ''; '' to train the"
        " teacher in <workdir>/teacher first.",
        changeable=True,
    )
    fine_tune: bool = field(
        "teacher.fine_tune",
        False,
        Flag(),
        "Trains the teacher from teacher.checkpoint to these images first, in"
        " <workdir>/teacher. Flags for both teacher.checkpoint and teacher.epochs imply it.",
        unused=(_IF_TEACHER, unless("teacher.checkpoint")),
    )
    dtype: str = field(
        "teacher.dtype",
        "",
        Choice(("", *DTYPES)),
        "What its convolutions compute in as a teacher; '': as dtype, in which it is trained"
        " anyway.",
        unused=_IF_TEACHER,
    )
    weight: float = field(
        "teacher.weight",
        1.0,
        Real(above=0, maximum=1000000000.0),
        "Its weight among several teachers, such as --config.teacher[0].weight=2.",
        unused=(_IF_TEACHER, _alone),
    )
    drop_path: float = field(
        "teacher.drop_path",
        0.0,
        PART,
        "As student.drop_path, where it is trained.",
        unused=_IF_TRAINED,
        overrides="student.drop_path",
    )
    head: str = field(
        "teacher.head",
        "auto",
        Choice(HEADS),
        "As student.head, where it is trained.",
        unused=(*_IF_TRAINED, unless("teacher.checkpoint")),
        overrides="student.head",
    )
    freeze: str = field(
        "teacher.freeze",
        "",
        Text(),
        "As student.freeze, where it is trained.",
        unused=_IF_TRAINED,
        overrides="student.freeze",
    )
    backbone_rate: float = field(
        "teacher.backbone_rate",
        1.0,
        FACTOR,
        "As student.backbone_rate, where it is trained.",
        unused=_IF_TRAINED,
        overrides="student.backbone_rate",
    )
    seed: int = field(
        "teacher.seed", 0, SEED, "The seed of its training.", unused=_IF_TRAINED, overrides="seed"
    )
    train_split: str | None = field(
        "teacher.train_split",
        None,
        Optional(Text()),
        "None: as data.train_split.",
        unused=_IF_TRAINED,
        overrides="data.train_split",
    )
    share: float | None = field(
        "teacher.share",
        None,
        Optional(FACTOR),
        "None: as data.share; 1: all images.",
        unused=(*_IF_TRAINED, unless("data.mock_examples", 0)),
        overrides="data.share",
    )
    per_class: int | None = field(
        "teacher.per_class",
        None,
        Optional(Integer(0)),
        "None: as data.per_class; 0: all.",
        unused=(*_IF_TRAINED, unless("data.mock_examples", 0)),
        overrides="data.per_class",
    )
    imbalance: float | None = field(
        "teacher.imbalance",
        None,
        Optional(RATIO),
        "None: as data.imbalance; 1: as they are.",
        unused=(*_IF_TRAINED, unless("data.mock_examples", 0)),
        overrides="data.imbalance",
    )
    label_noise: float | None = field(
        "teacher.label_noise",
        None,
        Optional(PART),
        "None: as data.label_noise; 0: none.",
        unused=_IF_TRAINED,
        overrides="data.label_noise",
    )
    use_labels: bool | None = field(
        "teacher.use_labels",
        None,
        Optional(Flag()),
        "None: as data.use_labels; True: it is trained with labels here, for a student without.",
        unused=_IF_TRAINED,
        overrides="data.use_labels",
    )
    epochs: int | None = field(
        "teacher.epochs",
        None,
        Optional(COUNT),
        "None: as train.epochs.",
        unused=_IF_TRAINED,
        overrides="train.epochs",
    )
    learning_rate: float | None = field(
        "teacher.learning_rate",
        None,
        Optional(RATE),
        "None: as optimizer.learning_rate.",
        unused=_IF_TRAINED,
        overrides="optimizer.learning_rate",
    )

    @property
    def is_trained(self) -> bool:
        """Whether the teacher is trained here, from random weights or from a checkpoint."""
        return self.fine_tune or not self.checkpoint


@settings.described
@dataclasses.dataclass(frozen=True)
class NetworkChoice:
    """A network by name, and the precision it computes in.

    Attributes:
      dtype: of its convolutions.
      prefix: the section of its options, such as "student.options.", for messages.
      network: a network made in Python, which replaces all but the name.
    """

    model: str = field(
        "student.model",
        "",
        Text(),
        "A name that `python -m rrd_jax.networks` lists, or an import path such as my_nets:Small.",
    )
    dtype: jnp.dtype = jnp.float32
    space_to_depth: bool = field(
        "space_to_depth",
        False,
        Flag(),
        "Computes the 7x7 convolutions that ImageNet's ResNets start with on 2x2 pixels at"
        " once, which differs by rounding only. Some accelerators are quicker with it, a CPU is"
        " slower.",
    )
    options: Mapping[str, Any] = field(
        "student.options",
        {},
        Mapped(),
        "Arguments of a network by import path; embedding_of says where its embedding is.",
    )
    prefix: str = ""
    network: networks.Network | None = None
    drop_path: float = field(
        "student.drop_path",
        0.0,
        PART,
        "Share of images for which the last block is left out in training; of the blocks before"
        " it in proportion to their depth. For transformers, ConvNeXt, EfficientNet,"
        " MobileNetV3 and V4, and RegNetY.",
    )

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


@settings.described
@dataclasses.dataclass(frozen=True)
class OptimizerChoice:
    """An optimizer and its schedule, as names and numbers.

    Attributes:
      transform: an optimizer made in Python, which replaces the name and its numbers: a function of
        the schedule, or a transformation that has its own rates.
    """

    learning_rate: float = field(
        "optimizer.learning_rate", 0.05, RATE, "The learning rate after the warm-up."
    )
    milestones: tuple[float, ...] = field(
        "optimizer.milestones",
        (0.625, 0.75, 0.875),
        Numbers(Real(above=0, below=1), ascending=True, unit=", fractions of the run,"),
        "When the rate falls, as fractions of the run: epochs 150, 180, 210 of 240.",
        unused=_IF_MILESTONES,
    )
    decay: float = field(
        "optimizer.decay",
        0.1,
        FACTOR,
        "Factor of the learning rate at each milestone.",
        unused=(_IF_MILESTONES, unless("optimizer.milestones")),
    )
    momentum: float = field(
        "optimizer.momentum",
        0.9,
        PART,
        "Momentum of sgd; other optimizers have theirs in optimizer.options.",
    )
    weight_decay: float = field(
        "optimizer.weight_decay",
        0.0005,
        Real(minimum=0, maximum=1000000.0),
        "This times the parameters is added to their gradient, or decoupled where the optimizer"
        " does that (adamw, lamb, lion, muon).",
    )
    clip_norm: float = field(
        "optimizer.clip_norm",
        0.0,
        Real(minimum=0, maximum=1000000.0),
        "Above 0: gradients are shortened to this length; 0: never.",
    )
    name: str = field(
        "optimizer.name",
        "sgd",
        Text(),
        "sgd (as PyTorch's); adam, adamw, lamb, lion, rmsprop, muon or any other factory of"
        " optax and optax.contrib; or an import path MODULE:NAME of a function learning_rate,"
        " options -> GradientTransformation.",
    )
    options: Mapping[str, Any] = field(
        "optimizer.options",
        {},
        Mapped(),
        "The optimizer's own arguments, such as b1 and b2 of adamw.",
    )
    nesterov: bool = field("optimizer.nesterov", False, Flag(), "Nesterov's momentum, of sgd.")
    decay_norm_and_bias: bool = field(
        "optimizer.decay_norm_and_bias",
        True,
        Flag(),
        "False: scales of norms, and biases, do not decay.",
        unused=unless("optimizer.weight_decay"),
    )
    layer_decay: float = field(
        "optimizer.layer_decay",
        1.0,
        FACTOR,
        "Below 1: blocks of the student learn more slowly the earlier they come, each at this"
        " times the rate of the next, as in timm.",
    )
    schedule_name: str = field(
        "optimizer.schedule",
        "milestones",
        Text(),
        "milestones, cosine, linear, constant, wsd, exponential; or an import path MODULE:NAME"
        " of a function learning_rate, steps, options -> (step -> rate).",
    )
    schedule_options: Mapping[str, Any] = field(
        "optimizer.schedule_options",
        {},
        Mapped(),
        "Of wsd: decay_epochs (None: a fifth), decay_shape (linear, cosine); of exponential:"
        " decay_rate (0.97), every_epochs (1), staircase.",
    )
    warmup_epochs: float = field(
        "optimizer.warmup_epochs",
        0.0,
        Real(minimum=0),
        "Epochs in which the rate grows linearly, before any schedule.",
    )
    warmup_start: float = field(
        "optimizer.warmup_start", 0.0, Real(minimum=0), "Rate of the first step of the warm-up."
    )
    final_learning_rate: float = field(
        "optimizer.final_learning_rate",
        0.0,
        Real(minimum=0),
        "The rate at the end of cosine, linear, wsd and exponential.",
    )
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
