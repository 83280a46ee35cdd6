"""Training of a student or a teacher, from a config and from what was made in Python."""

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from rrd_jax import config as configs
from rrd_jax import data, errors, parallel
from rrd_jax.jobs import job
from rrd_jax.library import making
from rrd_jax.library.loaded import Trained
from rrd_jax.library.loading import load
from rrd_jax.library.quiet import quietly
from rrd_jax.training import recipe


@quietly
def distill(
    config: ConfigDict | recipe.Job | None = None,
    workdir: str | pathlib.Path | None = None,
    *,
    teacher: Any = None,
    student: Any = None,
    train: Any = None,
    test: Any = None,
    objectives: Mapping[str, Any] | None = None,
    optimizer: Any = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    num_classes: int | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Trained:
    """Trains a student with a teacher, or goes on where an earlier call with this workdir stopped.

    Args:
      config: of a launch file, or of `rrd_jax.config.defaults()`, which is the default; or a Job,
        which takes nothing beside it but the workdir, train and test.
      workdir: where checkpoints and figures go; None for a temporary folder.
      teacher: of `rrd_jax.load`, `train_teacher`, or a folder or file of weights; a pair (module,
        variables); an NNX or Equinox module, with its weights; or a name, an import path or any
        other network, which is trained first.
      student: a name, an import path, a Linen, NNX or Equinox module, a pair of functions. One that
        comes with weights starts from these: a pair (module, variables), an NNX or Equinox module,
        what `rrd_jax.load` or `train_teacher` gave, or the workdir of a run. For other files there
        is fields={"student.checkpoint": FILE}.
      train: a pair of arrays, images [N, H, W, channels] uint8 and labels [N]; or a random-access
        source of such pairs or of dicts with `image` and `label`. None for the config's data.
      test: likewise.
      objectives: {name: weight} in the total loss; names may be import paths. For what is made in
        Python {name: (weight, objective)}, with an Objective or a function (student, teacher,
        batch) -> [B]. None for the config's, or RRD and KD.
      optimizer: a name; a function of the learning rate such as `optax.adamw`; or a transformation
        such as `optax.adamw(1e-3)`. None for the config's.
      epochs: passes over the training images.
      batch_size: images a step.
      learning_rate: the highest.
      num_classes: C; None to find it in the data.
      fields: other fields of the config by their path, such as {"data.augment": "none"}.

    Raises:
      InputError: something is missing, or does not go together.
      DivergedError: the loss is not finite.

    Examples:
      >>> import numpy as np, rrd_jax
      >>> images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1), dtype=np.uint8)
      >>> split = images, np.arange(32) % 4
      >>> result = rrd_jax.distill(
      ...     teacher="resnet8", student="resnet8", train=split, test=split,
      ...     objectives={"rrd": 1.0, "kd": 1.0}, epochs=1, batch_size=16)
      warning: 32 test images: ...
      >>> sorted(result.metrics)[:4]
      ['agreement', 'best_epoch', 'best_top1', 'checkpoint']
      >>> result.network(images[:2]).logits.shape
      (2, 4)
    """
    asked = _Asked(config, teacher, student, objectives, optimizer, fields or {})
    numbers = (epochs, batch_size, learning_rate)
    return _run(asked, numbers, workdir, train, test, num_classes)


def train_teacher(
    network: Any,
    train: Any = None,
    test: Any = None,
    workdir: str | pathlib.Path | None = None,
    *,
    config: ConfigDict | None = None,
    **options: Any,
) -> Trained:
    """Trains a network alone, with cross-entropy; its result can be a teacher.

    Args:
      network: as `distill`'s student.
      train: as `distill` has it.
      test: likewise.
      workdir: likewise.
      config: likewise.
      **options: optimizer, epochs, batch_size, learning_rate, num_classes and fields, as `distill`
        has them.

    Raises:
      InputError: something is missing, or does not go together.
      DivergedError: the loss is not finite.

    Examples:
      >>> import numpy as np, rrd_jax
      >>> split = np.zeros((32, 8, 8, 1), np.uint8), np.arange(32) % 4
      >>> teacher = rrd_jax.train_teacher("resnet8", split, split, epochs=1, batch_size=16)
      warning: 32 test images: ...
      >>> teacher.network.name, teacher.network.num_classes
      ('resnet8', 4)
    """
    known = ("epochs", "batch_size", "learning_rate", "optimizer", "fields", "num_classes")
    for name in options:
        errors.lookup("argument of train_teacher", name, dict.fromkeys(known))
    base = _copied(config)
    with base.unlocked(), base.ignore_type():
        base.teacher = configs.defaults().teacher
        base.baseline, base.method = False, "ce"
    *numbers, optimizer, fields, num_classes = map(options.get, known)
    asked = _Asked(base, None, network, {"ce": 1.0}, optimizer, fields or {}, label="teacher")
    return _run(asked, numbers, workdir, train, test, num_classes)


def _copied(config: Any) -> ConfigDict:
    """A config to change; the defaults for None."""
    if config is None:
        return configs.defaults()
    if not isinstance(config, ConfigDict):
        raise errors.InputError(
            f"config is of type {type(config).__name__}, but must be a ConfigDict, such as"
            " rrd_jax.config.defaults(), or a Job"
        )
    return config.copy_and_resolve_references()


_NUMBERS = ("train.epochs", "train.batch_size", "optimizer.learning_rate")


@dataclasses.dataclass(frozen=True, eq=False)
class _Asked:
    """What `distill` was given, beside data and numbers; what lines call the run, if not usual."""

    config: ConfigDict | recipe.Job | None
    teacher: Any
    student: Any
    objectives: Mapping[str, Any] | None
    optimizer: Any
    fields: Mapping[str, Any]
    label: str = ""


def _run(
    asked: _Asked,
    numbers: Sequence[Any],
    workdir: str | pathlib.Path | None,
    train: Any,
    test: Any,
    num_classes: int | None,
) -> Trained:
    """Trains, or goes on."""
    parallel.check_platform()
    numbers = {
        path: value for path, value in zip(_NUMBERS, numbers, strict=True) if value is not None
    }
    if isinstance(asked.config, recipe.Job):
        given = [asked.teacher, asked.student, asked.objectives, asked.optimizer]
        if any(value is not None for value in given) or numbers or asked.fields:
            raise errors.InputError(
                "a Job says all by itself: pass a ConfigDict to change the rest with arguments"
            )
        plan, made = asked.config, recipe.Made()
        dataset = making.open_dataset(train, test, plan.student.source, num_classes)
    else:
        plan, made, dataset = _plan(asked, numbers, train, test, num_classes)
    if not isinstance(workdir, str | os.PathLike | None):
        raise errors.InputError(f"workdir is {workdir!r}, but must be a path")
    folder = pathlib.Path(workdir or tempfile.mkdtemp(prefix="rrd_jax_"))
    parallel.check_jaxlib()
    results = job.run(plan, folder, dataset=dataset)
    student = made.networks.get(plan.student.training.network.model)
    return Trained(load(folder, network=student), results, folder, dataset)


def _is_of_objectives(path: Any) -> bool:
    """Whether a field is there only once the objectives are chosen."""
    return str(path).startswith("objectives.")


def _check_said_once(asked: _Asked, numbers: dict[str, Any]) -> None:
    """Raises an InputError where an argument and `fields` say the same."""
    if not isinstance(asked.fields, Mapping):
        making.set_fields(configs.defaults(), asked.fields)  # which says so
    said = {
        "student.model": asked.student,
        "teacher.model": asked.teacher,
        "optimizer.name": asked.optimizer,
    }
    arguments = {path: path.partition(".")[0] for path, value in said.items() if value is not None}
    arguments |= {path: path.rpartition(".")[2] for path in numbers}
    for path in arguments.keys() & asked.fields.keys():
        raise errors.InputError(
            f"'{path}' is in fields, and {arguments[path]}= is given too: say it once"
        )


def _plan(
    asked: _Asked, numbers: dict[str, Any], train: Any, test: Any, num_classes: int | None
) -> tuple[recipe.Job, recipe.Made, data.Dataset | None]:
    """The job of a config and of what was made in Python."""
    config, dataset = _copied(asked.config), None
    _check_said_once(asked, numbers)
    late = {path: value for path, value in asked.fields.items() if _is_of_objectives(path)}
    early = {path: value for path, value in asked.fields.items() if path not in late}
    with config.unlocked(), config.ignore_type():
        making.set_fields(config, {**numbers, **early})
        if train is not None:
            dataset = making.open_and_describe(config, asked.fields, train, test, num_classes)
        made = making.Making(config, num_classes or (dataset and dataset.num_classes) or 0)
        made.student(asked.student)
        made.teacher(asked.teacher)
        made.objectives(asked.objectives)
        making.set_fields(config, late)
        made.optimizer(asked.optimizer, [*numbers, *asked.fields])
        config = configs.with_implied(config, asked.fields)
        config.name = config.name or config.method
    plan = configs.parse(config, made=made.made)
    if asked.label:
        training = dataclasses.replace(plan.student.training, label=asked.label)
        plan = dataclasses.replace(
            plan, student=dataclasses.replace(plan.student, training=training)
        )
    return plan, made.made, dataset
