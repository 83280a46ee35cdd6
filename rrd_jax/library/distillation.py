"""Trains a student or a teacher from a config and Python objects."""

import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rrd_jax import config as configs
from rrd_jax import data, errors, parallel, user_paths
from rrd_jax.jobs import job
from rrd_jax.library import array_datasets, custom_objects, field_overrides
from rrd_jax.library.loaded_network import Trained
from rrd_jax.library.quiet import quietly
from rrd_jax.library.weights_loader import load
from rrd_jax.run_folder import workdir as run_folder
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
    val_split: float | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Trained:
    """Trains a student with a teacher, or resumes an earlier call with the same workdir.

    Args:
      config: the config of a config file; or a Job, which can only be combined with workdir, train
        and test. None for `rrd_jax.config.defaults()`.
      workdir: the folder for checkpoints and metrics; None for a temporary folder.
      teacher: a result of `rrd_jax.load` or `train_teacher`, or a folder or file of weights; a pair
        (module, variables); an NNX or Equinox module with its weights; or a name, an import path or
        any other network, which is trained first.
      student: a name, an import path, a Linen, NNX or Equinox module, or a pair of functions. A
        pair (module, variables), an NNX or Equinox module, a result of `rrd_jax.load` or
        `train_teacher` and the workdir of a run start from their weights. For other files, pass
        fields={"student.checkpoint": FILE}.
      train: a pair of arrays, images [N, H, W, channels] uint8 and labels [N]; or a random-access
        source of such pairs or of dicts with `image` and `label`. None for the data of the config.
      test: the test images, in the same form.
      objectives: {name: weight} in the total loss; names may be import paths. {name: (weight,
        objective)} for Python objects: an Objective or a function (student, teacher, batch) -> [B].
        None for the objectives of the config, or RRD and KD.
      optimizer: a name; a function of the learning rate such as `optax.adamw`; or a transformation
        such as `optax.adamw(1e-3)`. None for the optimizer of the config.
      epochs: passes over the training images.
      batch_size: images per step.
      learning_rate: the peak learning rate.
      num_classes: C; None to read it from the data.
      val_split: the share or number of the training images that choose the best checkpoint, such as
        0.1 or 500 (data.val_split). None for the config's; by default the test images choose it.
      fields: other config fields by path, such as {"data.augment": "none"}.

    Raises:
      InputError: an argument is missing or invalid, or arguments contradict each other.
      DivergedError: the loss is not finite.

    Examples:
      >>> import numpy as np, rrd_jax
      >>> images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1), dtype=np.uint8)
      >>> split = images, np.arange(32) % 4
      >>> result = rrd_jax.distill(
      ...     teacher="resnet8", student="resnet8", train=split, test=split,
      ...     objectives={"rrd": 1.0, "kd": 1.0}, epochs=1, batch_size=16)
      warning: only 32 test images: ...
      >>> sorted(result.metrics)[:4]
      ['agreement', 'best_by', 'best_epoch', 'best_score']
      >>> result.network(images[:2]).logits.shape
      (2, 4)
    """
    parallel.check_platform()
    numbers = _numbers(epochs, batch_size, learning_rate, val_split)
    fields = fields or {}
    if isinstance(config, recipe.Job):
        others = (teacher, student, objectives, optimizer)
        if any(value is not None for value in others) or numbers or fields:
            raise errors.InputError(
                "config is a Job, which other arguments cannot change; pass a ConfigDict"
            )
        dataset = array_datasets.open_dataset(train, test, config.student.source, num_classes)
        return _run(config, recipe.CustomObjects(), dataset, workdir)
    objects = _Objects(teacher, student, objectives, optimizer)
    plan, custom, dataset = _plan(
        _copied(config), objects, numbers, fields, train, test, num_classes, _recorded(workdir)
    )
    return _run(plan, custom, dataset, workdir)


def train_teacher(
    network: Any,
    train: Any = None,
    test: Any = None,
    workdir: str | pathlib.Path | None = None,
    *,
    config: ConfigDict | None = None,
    **options: Any,
) -> Trained:
    """Trains a network alone, with cross-entropy; the result can be a teacher.

    Args:
      network: the network, in any form that `distill` accepts as `student`.
      train: training images, as for `distill`.
      test: test images, as for `distill`.
      workdir: the folder for checkpoints and metrics, as for `distill`.
      config: the config, as for `distill`.
      **options: optimizer, epochs, batch_size, learning_rate, num_classes, val_split and fields, as
        for `distill`.

    Raises:
      InputError: an argument is missing or invalid, or arguments contradict each other.
      DivergedError: the loss is not finite.

    Examples:
      >>> import numpy as np, rrd_jax
      >>> split = np.zeros((32, 8, 8, 1), np.uint8), np.arange(32) % 4
      >>> teacher = rrd_jax.train_teacher("resnet8", split, split, epochs=1, batch_size=16)
      warning: only 32 test images: ...
      >>> teacher.network.name, teacher.network.num_classes
      ('resnet8', 4)
    """
    numeric = ("epochs", "batch_size", "learning_rate", "val_split")
    for name in options:
        names = dict.fromkeys((*numeric, "optimizer", "fields", "num_classes"))
        errors.lookup("argument of train_teacher", name, names)
    parallel.check_platform()
    base = _copied(config)
    with base.unlocked(), base.ignore_type():
        base.teacher = configs.defaults().teacher
        base.baseline, base.method, base.label = False, "ce", "teacher"
    numbers = _numbers(*map(options.get, numeric))
    objects = _Objects(None, network, {"ce": 1.0}, options.get("optimizer"))
    fields = options.get("fields") or {}
    classes = options.get("num_classes")
    plan, custom, dataset = _plan(
        base, objects, numbers, fields, train, test, classes, _recorded(workdir)
    )
    return _run(plan, custom, dataset, workdir)


def _copied(config: Any) -> ConfigDict:
    """Returns a copy of the config, or the defaults for None."""
    if config is None:
        return configs.defaults()
    if not isinstance(config, ConfigDict):
        raise errors.InputError(
            f"config is of type {type(config).__name__}, but must be a ConfigDict, such as"
            " rrd_jax.config.defaults(), or a Job"
        )
    return config.copy_and_resolve_references()


def _numbers(
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    val_split: float | None,
) -> dict[str, Any]:
    """Returns the arguments that are not None, by the path of their field."""
    values = {
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "optimizer.learning_rate": learning_rate,
        "data.val_split": val_split,
    }
    return {path: value for path, value in values.items() if value is not None}


class _Objects(NamedTuple):
    """The arguments of `distill` that may be Python objects."""

    teacher: Any
    student: Any
    objectives: Mapping[str, Any] | None
    optimizer: Any


def _recorded(workdir: Any) -> dict[str, Any] | None:
    """Returns the config that a workdir records; None for a new workdir or an invalid path."""
    if not workdir:
        return None
    folder = _folder(workdir)
    run_folder.check_reachable(folder)
    return run_folder.recorded_fields(folder)


def _folder(workdir: Any) -> pathlib.Path:
    """Returns the path of a workdir, a temporary folder for None."""
    path = tempfile.mkdtemp(prefix="rrd_jax_") if workdir is None else workdir
    return user_paths.parse(path, "workdir", bucket=True)


def _run(
    plan: recipe.Job,
    custom: recipe.CustomObjects,
    dataset: data.Dataset | None,
    workdir: str | pathlib.Path | None,
) -> Trained:
    """Runs or resumes a job, and loads its network."""
    folder = _folder(workdir)
    run_folder.check_reachable(folder)
    parallel.check_jaxlib()
    results = job.run(plan, folder, dataset=dataset)
    student = custom.networks.get(plan.student.training.network.model)
    return Trained(load(folder, network=student), results, folder, dataset)


def _check_duplicates(objects: _Objects, numbers: dict[str, Any], fields: Any) -> None:
    """Raises an InputError if an argument and `fields` set the same field."""
    if not isinstance(fields, Mapping):
        # This call raises the error that describes the problem.
        field_overrides.set_fields(configs.defaults(), fields)
    arguments = {path: path.rpartition(".")[2] for path in numbers}
    for path, value in {
        "student.model": objects.student,
        "teacher.model": objects.teacher,
        "optimizer.name": objects.optimizer,
    }.items():
        if value is not None:
            arguments[path] = path.partition(".")[0]
    for path in arguments.keys() & fields.keys():
        raise errors.InputError(f"'{path}' is set by fields and by {arguments[path]}=; omit one")


def _plan(
    config: ConfigDict,
    objects: _Objects,
    numbers: dict[str, Any],
    fields: Mapping[str, Any],
    train: Any,
    test: Any,
    num_classes: int | None,
    recorded: Mapping[str, Any] | None,
) -> tuple[recipe.Job, recipe.CustomObjects, data.Dataset | None]:
    """Returns the job of a config with Python objects, the objects and the data set."""
    _check_duplicates(objects, numbers, fields)
    # Fields of objectives exist only after the objectives have been set.
    is_late = {path: str(path).startswith("objectives.") for path in fields}
    dataset = None
    with config.unlocked(), config.ignore_type():
        early = {path: value for path, value in fields.items() if not is_late[path]}
        field_overrides.set_fields(config, {**numbers, **early})
        if train is not None:
            dataset = array_datasets.open_and_describe(
                config, fields, train, test, num_classes, recorded
            )
        builder = custom_objects.CustomObjectsBuilder(
            config, num_classes or (dataset and dataset.num_classes) or 0
        )
        builder.student(objects.student)
        builder.teacher(objects.teacher)
        builder.objectives(objects.objectives)
        field_overrides.set_fields(config, {path: fields[path] for path in fields if is_late[path]})
        builder.optimizer(objects.optimizer, [*numbers, *fields])
        field_overrides.set_fields(config, configs.implied(config, fields))
        config.name = config.name or config.method
    plan = configs.parse(config, custom=builder.custom, recorded=recorded)
    return plan, builder.custom, dataset
