"""Fields that were set, and have no effect together with others: said, and no more."""

from collections.abc import Collection, Iterator

from ml_collections import ConfigDict

from rrd_jax.config import kinds, methods
from rrd_jax.config.checks import entries, teachers
from rrd_jax.config.kinds import Mapped
from rrd_jax.data.source import HOST_AUGMENTATIONS
from rrd_jax.objectives import RECORDS
from rrd_jax.terminal import console

# Options of rrd and crd that only some of their memories have.
_OF_MEMORIES = {
    "initial": ("fifo",),
    "chunk": ("fifo", "momentum"),
    "precision": ("fifo", "momentum"),
    "momentum": ("bank", "momentum", "momentum_reference"),
    "temperature_bank": ("momentum_reference",),
}


def note(config: ConfigDict, asked: Collection[str] | None = None) -> None:
    """Prints a line with all fields that were set, but have no effect, if there are any.

    Warns of test images that are trained on.

    Args:
      config: checked fields.
      asked: the paths of the fields that a user set; None for those that are not at their default.
    """
    changed = set(_changed(config) if asked is None else asked)
    idle = [
        f"{path} ({reason})"
        for path, reason in without_effect(config)
        if any(f"{name}.".startswith(f"{path}.") for name in changed)
    ]
    if idle:
        console.note(f"without effect here: {', '.join(idle)}")
    train, test = config.data.train_split, config.data.test_split
    name, test_name = train.partition("[")[0], test.partition("[")[0]
    if name == test_name and (train == test or name in (train, test)):
        console.warn(
            f"data.test_split is {kinds.shown(test)}, and data.train_split {kinds.shown(train)}:"
            " the test figures are of images that were trained on"
        )


def _changed(config: ConfigDict) -> Iterator[str]:
    for path, field, value in entries(config):
        if (dict(value) if isinstance(field.kind, Mapped) else value) != field.default:
            yield path
    for name, given in config.objectives.items():
        usual = methods.fields(RECORDS[name]) if name in RECORDS else {}
        for option, value in given.items():
            if option in usual and value != kinds.plain(usual[option]):
                yield f"objectives.{name}.{option}"


def without_effect(config: ConfigDict) -> Iterator[tuple[str, str]]:
    """Every field that has no effect, set or not, and why."""
    for section, names, reason in (
        *_of_data(config),
        *_of_student(config),
        *_of_optimizer(config),
        *_of_teachers(config),
        *_of_proof(config),
    ):
        yield from ((f"{section}.{name}", reason) for name in names)
    yield from _of_objectives(config)


def _of_data(config: ConfigDict) -> Iterator[tuple[str, tuple[str, ...], str]]:
    data, on_host = config.data, config.data.augment in HOST_AUGMENTATIONS
    if data.augment != "crop_flip":
        yield "data", ("pad",), f"data.augment is {data.augment}"
    if data.augment not in ("crop_flip", "resized_crop"):
        yield "data", ("flip",), f"data.augment is {data.augment}"
    if data.augment not in ("random_resized", "resized_crop"):
        yield "data", ("crop_area",), f"data.augment is {data.augment}"
    if not data.views.count:
        yield "data.views", ("seed",), "data.views.count is 0"
    if not on_host:
        yield "data", ("resize", "decoder"), f"data.augment is {data.augment}"
    yield from _of_changes(data)
    if data.feed == "resident":
        yield "data", ("workers", "keep", "keep_share"), "data.feed is resident"
    elif data.keep == "off":
        yield "data", ("keep_share",), "data.keep is off"
    if on_host or data.feed == "streamed":
        yield "train", ("steps_per_dispatch",), "images are streamed"
    if not data.use_labels:
        yield "data", ("class_names",), "data.use_labels is False"
    if data.use_labels or data.name != "image_folder":
        yield "data", ("max_images",), "it is of image_folder without labels"
    if ":" not in data.name:
        yield "data", ("options",), f"data.name is {kinds.shown(data.name)}"
    yield from _of_degraded(config)


def _of_changes(data: ConfigDict) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Of what is done to training images at random, beside the crop."""
    if not data.policy.startswith("rand"):
        names = ("policy_operators", "policy_magnitude", "policy_noise")
        yield "data", names, f"data.policy is {data.policy}"
    if not any(data.jitter):
        yield "data", ("jitter_probability",), "data.jitter is all 0"
    elif not data.jitter_probability:
        yield "data", ("jitter",), "data.jitter_probability is 0"
    if len(data.mean) == 1:
        yield "data", ("grey",), "images have one channel"
    names = ("grey", "gaussian_blur", "solarize", "erase")
    changes = data.policy != "none" or any(data.jitter) or any(data[name] for name in names)
    if not changes and not data.views.others:
        yield "data.views", ("teacher",), "nothing comes after the crop"
    if not data.erase:
        yield "data", ("erase_with",), "data.erase is 0"
    if data.mix != "mixup+cutmix":
        yield "data", ("cutmix_alpha", "mix_switch"), f"data.mix is {data.mix}"
    if data.mix == "none":
        yield "data", ("mix_alpha", "mix_probability"), "data.mix is none"


def _of_degraded(config: ConfigDict) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Of data that are made worse on purpose, by the student's fields or a teacher's."""
    data = config.data
    everyone = [data, *(fields for _, fields in teachers(config) if fields.model)]
    is_noisy = any(fields.label_noise for fields in everyone)
    is_mocked = "random images stand in for the data"
    if not is_noisy:
        yield "data", ("noise",), "there is no label noise"
    if data.mock_examples:
        names = ("share", "per_class", "imbalance")
        yield "data", names, is_mocked
        for label, _ in teachers(config):
            yield label, names, is_mocked
    is_thinned = not data.mock_examples and any(
        (fields.share or 1) < 1 or fields.per_class or (fields.imbalance or 1) > 1
        for fields in everyone
    )
    if not is_noisy and not is_thinned:
        yield "data", ("noise_seed",), "there is neither label noise, nor are images left out"


def _of_student(config: ConfigDict) -> Iterator[tuple[str, tuple[str, ...], str]]:
    if not config.student.checkpoint:
        yield "student", ("head",), "student.checkpoint is empty"


def _of_optimizer(config: ConfigDict) -> Iterator[tuple[str, tuple[str, ...], str]]:
    optimizer = config.optimizer
    if optimizer.schedule != "milestones":
        yield "optimizer", ("milestones", "decay"), f"optimizer.schedule is {optimizer.schedule}"
    elif not optimizer.milestones:
        yield "optimizer", ("decay",), "optimizer.milestones is empty"
    if not optimizer.weight_decay:
        yield "optimizer", ("decay_norm_and_bias",), "optimizer.weight_decay is 0"


def _of_teachers(config: ConfigDict) -> Iterator[tuple[str, tuple[str, ...], str]]:
    of_training = (
        *("seed", "train_split", "share", "per_class", "imbalance", "label_noise", "use_labels"),
        *("epochs", "learning_rate", "freeze", "backbone_rate", "drop_path"),
    )
    of_images = ("mean", "std", "image_size", "interpolation")
    for label, fields in teachers(config):
        if not fields.model:
            names = (*of_training, "options", "dtype", "weight", "fine_tune", "head")
            names += ("cache", "cache_place", "cache_dtype")
            names += (*of_images, "probe", "probe_l2", "class_vectors", "class_vectors_scale")
            yield label, names, f"{label}.model is empty"
            continue
        if fields.checkpoint and not fields.fine_tune:
            names = (*of_training, "head")
            yield (
                label,
                names,
                f"{label}.checkpoint is trained already, and {label}.fine_tune False",
            )
        elif not fields.checkpoint:
            yield label, ("head", "fine_tune"), f"{label}.checkpoint is empty"
        if not fields.probe:
            yield label, ("probe_l2",), f"{label}.probe is False"
        if not fields.class_vectors:
            yield label, ("class_vectors_scale",), f"{label}.class_vectors is empty"
        if fields.cache == "off":
            yield label, ("cache_place", "cache_dtype"), f"{label}.cache is off"
        if label == "teacher":
            yield label, ("weight",), "there is one teacher"


def _of_proof(config: ConfigDict) -> Iterator[tuple[str, tuple[str, ...], str]]:
    looks = config.eval
    if not any(fields.model for _, fields in teachers(config)):
        yield "eval", tuple(looks), "there is no teacher"
        return
    if not looks.proof:
        yield "eval", ("proof_images",), "eval.proof is False"
    if not (looks.proof or looks.labelled):
        yield "eval", ("every",), "eval.proof is False"
    if looks.labelled:
        yield "eval", ("knn",), "eval.labelled names other images"
    else:
        yield "eval", ("labelled_per_class",), "eval.labelled is empty"


def _of_objectives(config: ConfigDict) -> Iterator[tuple[str, str]]:
    for name, given in config.objectives.items():
        for option in given:
            path = f"objectives.{name}.{option}"
            kind_of_memory = given.get("memory")
            if not given.get("weight", 1.0) and option != "weight":
                yield path, f"objectives.{name}.weight is 0"
            elif name in ("crd", "rrd") and kind_of_memory not in _OF_MEMORIES.get(
                option, (kind_of_memory,)
            ):
                yield path, f"objectives.{name}.memory is {kind_of_memory}"
