"""A teacher as it is chosen: weights, training, images, classifier and cache."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rrd_jax import settings
from rrd_jax.settings import Rule, field, kinds, unless
from rrd_jax.settings.kinds import Choice, Flag, Optional, Text
from rrd_jax.training.choices.network import DTYPES, HEADS

INTERPOLATIONS = ("bilinear", "bicubic")
CACHES = ("auto", "on", "off")
CACHE_PLACES = ("auto", "device", "host", "file")
CACHE_DTYPES = ("auto", "float32", "bfloat16")
_IF_CACHED = unless("teacher.cache", "auto", "on")
_IF_REAL = unless("data.mock_examples", 0)


def _when_pretrained(values: settings.Values) -> str:
    """Returns the reason for fields of the training of a teacher whose weights are given."""
    if values["teacher.checkpoint"] and not values["teacher.fine_tune"]:
        label = values.label
        return f"{label}.checkpoint is trained already, and {label}.fine_tune False"
    return ""


def _alone(values: settings.Values) -> str:
    return "there is one teacher" if values.labels == ("teacher",) else ""


def _field(name: str, default: Any, kind: kinds.Kind, *rules: Rule, **options: Any) -> Any:
    """Declares a field of a teacher, which has no effect without a network."""
    rules = (unless("teacher.model"), *rules)
    return field(f"teacher.{name}", default, kind, unused=rules, **options)


def _of_training(name: str, default: Any, kind: kinds.Kind, overrides: str, *rules: Rule) -> Any:
    """Declares a field of a teacher's own training, in which it replaces another field."""
    return _field(name, default, kind, _when_pretrained, *rules, overrides=overrides)


@dataclasses.dataclass(frozen=True)
class TeachingChoice:
    """How a teacher sees images, and where its logits come from.

    Attributes:
      section: the section of the config, for messages.
      label: the teacher's name in lines of the console, and the beginning of its folders' names.
      mean: Mean of the images that it sees. None: as its weights say (config.json beside a file,
        the run), else as data.mean. What differs is applied on the device, before its first layer.
      std: Their standard deviation. None: likewise, else as data.std.
      image_size: Their height and width. None: likewise, else as data.image_size.
      interpolation: How images are scaled to its image_size, antialiased, where that is another.
        auto: as its weights say, else bilinear.
      probe: Trains a linear classifier on its embeddings of the training images, seen as test
        images are, in place of its own: a teacher without one, or with other classes, has logits
        then.
      probe_l2: Regularisation of the probe, scikit-learn's 1 / C: sum of the images' losses +
        probe_l2 / 2 |W|^2, on standardised embeddings.
      class_vectors: A .npy, .npz or .safetensors file of a vector for each class [C, D], such as a
        text encoder's: logits are cosines to them (zero-shot). D is that of its embedding, or of
        its classifier, which is then CLIP's projection.
      class_vectors_scale: Factor of the cosines; exp(logit_scale) of CLIP.
    """

    section: str = "teacher"
    label: str = "teacher"
    mean: tuple[float, ...] | None = _field("mean", None, Optional(kinds.MEAN))
    std: tuple[float, ...] | None = _field("std", None, Optional(kinds.STD))
    image_size: int | None = _field("image_size", None, Optional(kinds.PIXELS))
    interpolation: str = _field("interpolation", "auto", Choice(("auto", *INTERPOLATIONS)))
    probe: bool = _field("probe", False, Flag())
    probe_l2: float = _field("probe_l2", 1.0, kinds.AMOUNT, unless("teacher.probe"))
    class_vectors: str = _field("class_vectors", "", Text())
    class_vectors_scale: float = _field(
        "class_vectors_scale", 100.0, kinds.RATE, unless("teacher.class_vectors")
    )

    @property
    def classifier(self) -> str:
        """What makes its logits in place of its own classifier, in words; "" for nothing."""
        return "linear probe" if self.probe else "zero-shot" if self.class_vectors else ""


@dataclasses.dataclass(frozen=True)
class CacheChoice:
    """Whether a teacher's outputs are cached, instead of running the teacher at each step.

    Attributes:
      use: Remembers the teacher's embeddings of all views of the training images (162 of each with
        crop_flip, otherwise data.views.count), instead of running it at each step: in memory, and
        on disk beside the teacher for later runs. auto: where there is room and there are more
        epochs than views, or they are on disk already.
      place: Where steps read them: device, or with data.views.count host, its memory, or file, a
        file's pages. auto: the first that half of the device or a quarter of the host has room for.
      dtype: What they are kept in. auto: what the teacher computes in, logits in float32; bfloat16
        keeps three digits of each number, in half of the memory.
    """

    use: str = _field("cache", "auto", Choice(CACHES))
    place: str = _field("cache_place", "auto", Choice(CACHE_PLACES), _IF_CACHED, changeable=True)
    dtype: str = _field("cache_dtype", "auto", Choice(CACHE_DTYPES), _IF_CACHED)


@dataclasses.dataclass(frozen=True)
class TeacherFields:
    """A teacher's network and weights, and its training where it is trained here.

    Attributes:
      model: As student.model; '' for a run without a teacher.
      options: As student.options.
      checkpoint: The workdir of a run, or RUN@best, RUN@last, RUN@STEP; a folder of
        rrd_jax.convert; a .pth or .safetensors file, or FILE@KEY for the weights under a key of it;
        hf:FOLDER, a folder of transformers, which names teacher.model if that is ''; '' to train
        the teacher in <workdir>/teacher first.
      fine_tune: Trains the teacher from teacher.checkpoint to these images first, in
        <workdir>/teacher. Flags for both teacher.checkpoint and teacher.epochs imply it.
      dtype: What its convolutions compute in as a teacher; '': as dtype, in which it is trained
        anyway.
      weight: Its weight among several teachers, such as --config.teacher[0].weight=2.
      drop_path: As student.drop_path, where it is trained.
      head: As student.head, where it is trained.
      freeze: As student.freeze, where it is trained.
      backbone_rate: As student.backbone_rate, where it is trained.
      seed: The seed of its training.
      train_split: None: as data.train_split.
      share: None: as data.share; 1: all images.
      per_class: None: as data.per_class; 0: all.
      imbalance: None: as data.imbalance; 1: as they are.
      label_noise: None: as data.label_noise; 0: none.
      use_labels: None: as data.use_labels; True: it is trained with labels here, for a student
        without.
      epochs: None: as train.epochs.
      learning_rate: None: as optimizer.learning_rate.
    """

    model: str = field("teacher.model", "", Text(), overrides="student.model")
    options: Mapping[str, Any] = _field("options", {}, kinds.Mapped(), overrides="student.options")
    checkpoint: str = field("teacher.checkpoint", "", Text(), changeable=True)
    fine_tune: bool = _field("fine_tune", False, Flag(), unless("teacher.checkpoint"))
    dtype: str = _field("dtype", "", Choice(("", *DTYPES)))
    weight: float = _field("weight", 1.0, kinds.AMOUNT, _alone)
    drop_path: float = _of_training("drop_path", 0.0, kinds.PART, "student.drop_path")
    head: str = _of_training(
        "head", "auto", Choice(HEADS), "student.head", unless("teacher.checkpoint")
    )
    freeze: str = _of_training("freeze", "", Text(), "student.freeze")
    backbone_rate: float = _of_training("backbone_rate", 1.0, kinds.FACTOR, "student.backbone_rate")
    seed: int = _of_training("seed", 0, kinds.SEED, "seed")
    train_split: str | None = _of_training(
        "train_split", None, Optional(Text()), "data.train_split"
    )
    share: float | None = _of_training(
        "share", None, Optional(kinds.FACTOR), "data.share", _IF_REAL
    )
    per_class: int | None = _of_training(
        "per_class", None, Optional(kinds.Integer(0)), "data.per_class", _IF_REAL
    )
    imbalance: float | None = _of_training(
        "imbalance", None, Optional(kinds.RATIO), "data.imbalance", _IF_REAL
    )
    label_noise: float | None = _of_training(
        "label_noise", None, Optional(kinds.PART), "data.label_noise"
    )
    use_labels: bool | None = _of_training("use_labels", None, Optional(Flag()), "data.use_labels")
    epochs: int | None = _of_training("epochs", None, Optional(kinds.COUNT), "train.epochs")
    learning_rate: float | None = _of_training(
        "learning_rate", None, Optional(kinds.RATE), "optimizer.learning_rate"
    )

    @property
    def is_trained(self) -> bool:
        """Whether the teacher is trained here, from random weights or from a checkpoint."""
        return self.fine_tune or not self.checkpoint
