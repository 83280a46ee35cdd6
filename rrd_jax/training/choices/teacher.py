"""Choices for a teacher: weights, training, preprocessing, classifier and cache."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rrd_jax import settings
from rrd_jax.settings import Rule, field, kinds, unless
from rrd_jax.settings.kinds import Choice, Flag, Optional, Path, Text
from rrd_jax.training.choices.network import DTYPES, HEADS, POSITIONS, POSITIONS_OF_RUNS

INTERPOLATIONS = ("bilinear", "bicubic")
CACHES = ("auto", "on", "off")
CACHE_PLACES = ("auto", "device", "host", "file")
CACHE_DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")
_IF_CACHED = unless("teacher.cache", "auto", "on")
_IF_REAL = unless("data.mock_examples", 0)


def _when_pretrained(values: settings.Values) -> str:
    """Returns why a teacher's training fields are unused: its checkpoint is not fine-tuned."""
    if values["teacher.checkpoint"] and not values["teacher.fine_tune"]:
        label = values.label
        return f"{label}.checkpoint is set, and {label}.fine_tune is False"
    return ""


def _if_single(values: settings.Values) -> str:
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
    """A teacher's preprocessing, and the source of its logits.

    Attributes:
      section: the section of the config in messages.
      label: the teacher's name in console lines, and the prefix of its folders' names.
      mean: Mean of the teacher's images. None: from the metadata of its weights (the run, or
        config.json next to a file), otherwise data.mean. Differences from the student's images are
        applied on the device, before the teacher's first layer.
      std: Standard deviation of the teacher's images. None: from the metadata of its weights,
        otherwise data.std.
      image_size: Height and width of the teacher's images. None: from the metadata of its weights,
        otherwise data.image_size.
      interpolation: Interpolation for resizing images to the teacher's image_size, antialiased.
        auto: from the metadata of its weights, otherwise bilinear.
      probe: Replaces the teacher's classifier by a linear classifier, trained on the teacher's
        embeddings of the training images, preprocessed like test images. Provides logits for a
        teacher without a classifier, or with other classes.
      probe_l2: Regularization of the probe, 1 / C of scikit-learn: the loss is the sum of the
        images' losses + probe_l2 / 2 |W|^2, on standardized embeddings.
      class_vectors: File (.npy, .npz or .safetensors) with a vector per class [C, D], such as those
        of a text encoder. Logits are the cosines to these vectors (zero-shot). D is the width of
        the teacher's embedding, or of its classifier, which is then CLIP's projection.
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
    class_vectors: str = _field("class_vectors", "", Path())
    class_vectors_scale: float = _field(
        "class_vectors_scale", 100.0, kinds.RATE, unless("teacher.class_vectors")
    )

    @property
    def classifier(self) -> str:
        """The kind of classifier that replaces the teacher's own; "" if none does."""
        return "linear probe" if self.probe else "zero-shot" if self.class_vectors else ""


@dataclasses.dataclass(frozen=True)
class CacheChoice:
    """The cache of a teacher's outputs, which replaces the teacher in the train step.

    Attributes:
      use: Caches the teacher's embeddings of all views of the training images (162 per image with
        crop_flip, otherwise data.views.count), with patches if an objective compares them, instead
        of running the teacher in each step: in memory, and on disk next to the teacher for later
        runs. auto: if the cache fits and has fewer views than the run has epochs, or is already on
        disk.
      place: Location from which steps read the cache: device; or with data.views.count, host (host
        memory) or file (memory-mapped). auto: the first that fits into half of the device memory or
        a quarter of the host memory.
      dtype: Type of the cached values. auto: the teacher's dtype, and float32 for logits; bfloat16
        stores three significant digits in half of the memory, float16 four. int8: patches in 8
        bits with a factor for each patch, all else in float32. The errors of other types than
        float32 are measured and printed before training.
    """

    use: str = _field("cache", "auto", Choice(CACHES))
    place: str = _field("cache_place", "auto", Choice(CACHE_PLACES), _IF_CACHED, changeable=True)
    dtype: str = _field("cache_dtype", "auto", Choice(CACHE_DTYPES), _IF_CACHED)


@dataclasses.dataclass(frozen=True)
class TeacherFields:
    """A teacher's network, its weights, and its training.

    Attributes:
      model: Name or import path of the teacher, as for student.model; '' for a run without a
        teacher.
      options: Arguments of the teacher, as for student.options.
      checkpoint: Weights of the teacher: the workdir of a run, or RUN@best, RUN@last, RUN@STEP; a
        folder of rrd_jax.convert; a .pth or .safetensors file, or FILE@KEY for the weights under a
        key of the file; hf:FOLDER, a folder of transformers, which also sets teacher.model if that
        is ''; each but the last also in a bucket, as gs://BUCKET/PATH or s3://BUCKET/PATH; '' to
        train the teacher in <workdir>/teacher first.
      positions: Resampling of position embeddings, as for student.positions.
      fine_tune: Fine-tunes the teacher from teacher.checkpoint on these images first, in
        <workdir>/teacher. Implied by flags for both teacher.checkpoint and teacher.epochs.
      dtype: Type of the teacher's convolutions during distillation; '' for dtype, which is always
        the type of the teacher's training.
      weight: Weight among several teachers, such as --config.teacher[0].weight=2.
      objectives: Objectives that compare the student with this teacher, among several teachers,
        separated by commas, such as rrd,embed; '' for all.
      drop_path: Drop-path rate of the teacher's training, as for student.drop_path.
      head: Classifier of teacher.checkpoint in the teacher's training, as for student.head.
      freeze: Frozen parts in the teacher's training, as for student.freeze.
      backbone_rate: Factor of the learning rate in the teacher's training, as for
        student.backbone_rate.
      seed: Seed of the teacher's training.
      train_split: Training split of the teacher. None: data.train_split.
      share: Share of the training images for the teacher; 1 for all. None: data.share.
      per_class: Training images per class for the teacher; 0 for all. None: data.per_class.
      imbalance: Class imbalance of the teacher's training images; 1 to keep all images. None:
        data.imbalance.
      label_noise: Share of wrong labels in the teacher's training; 0 for none. None:
        data.label_noise.
      use_labels: Trains the teacher with labels; True also for a student without labels. None:
        data.use_labels.
      epochs: Epochs of the teacher's training. None: train.epochs.
      learning_rate: Learning rate of the teacher's training. None: optimizer.learning_rate.
    """

    model: str = field("teacher.model", "", Text(), overrides="student.model")
    options: Mapping[str, Any] = _field("options", {}, kinds.Mapped(), overrides="student.options")
    checkpoint: str = field(
        "teacher.checkpoint", "", Path(bucket=True, repository=True), changeable=True
    )
    positions: str = _field(
        "positions", kinds.AUTO, POSITIONS, overrides="student.positions", **POSITIONS_OF_RUNS
    )
    fine_tune: bool = _field("fine_tune", False, Flag(), unless("teacher.checkpoint"))
    dtype: str = _field("dtype", "", Choice(("", *DTYPES)))
    weight: float = _field("weight", 1.0, kinds.AMOUNT, _if_single)
    objectives: str = _field("objectives", "", Text(), _if_single)
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
        """True if the job trains the teacher, from random weights or from a checkpoint."""
        return self.fine_tune or not self.checkpoint
