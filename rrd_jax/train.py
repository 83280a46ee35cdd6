"""The job of a config: check it, open the data, train or load the teacher, train the student."""

import contextlib
import fcntl
import functools
import itertools
import json
import os
import pathlib
import re
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from rrd_jax import (
    checkpoint,
    data,
    errors,
    fit,
    models,
    objectives,
    optim,
    parallel,
    program,
    report,
    weights,
)
from rrd_jax.data import augment

# Fields that a second start may change, because the numbers do not depend on them.
_FREE = (
    "name",
    "data.dir",
    "data.manual_dir",
    "data.feed",
    "data.workers",
    "train.log_every",
    "train.steps_per_dispatch",
    "train.save_every",
    "teacher.checkpoint",
    "shard_parameters",
)


class Setting(NamedTuple):
    """What the runs of a job share."""

    dataset: data.Dataset
    mesh: jax.sharding.Mesh


def run(config: ml_collections.ConfigDict, workdir: str) -> list[fit.Result]:
    """The whole job: the teacher if there is none yet, the student alone if asked, the student.

    A second call goes on where the first one stopped. The student's run lies in `workdir`, the
    others in `workdir`/teacher and `workdir`/alone. Ends with a table, kept in results.json.

    Args:
      config: fields as in configs/common.py.
      workdir: folder to write to; it belongs to one config.

    Raises:
      InputError: a bad config, data set, checkpoint or workdir.
      DivergedError: a loss is not finite.
      PreemptedError: SIGTERM came; the state is saved.
    """
    folder = pathlib.Path(workdir)
    check(config)
    setting = prepare(config)
    with claim(folder, config):  # before hours go into a teacher
        results, teacher = [], None
        if teachers(config):
            results, teacher = get_teacher(config, folder, setting)
        if config.baseline:
            alone = alone_config(config)
            with claim(folder / "alone", alone):
                results.append(train(alone, folder / "alone", setting, "student alone", teacher))
        label = f"distilled, {config.method}" if teacher else "student"
        results.append(train(config, folder, setting, label, teacher))
        if parallel.is_main():
            rows = [result._asdict() for result in results]
            report.write_json(folder / "results.json", rows)
    print("\n" + table(results))
    return results


def check(config: ml_collections.ConfigDict) -> None:
    """Raises an InputError for what can be seen to be wrong before any data is read."""
    fields = ("batch_size", "accumulate", "eval_batch_size", "epochs", "log_every")
    errors.check_positive(**{f"train.{name}": config.train[name] for name in fields})
    errors.check_positive(**{"data.image_size": config.data.image_size})
    if config.train.steps_per_dispatch < 0:
        raise errors.InputError(
            f"train.steps_per_dispatch is {config.train.steps_per_dispatch}; 0 chooses by itself"
        )
    if config.seed < 0:
        raise errors.InputError(f"seed is {config.seed}, but must be 0 or above")
    if not 0 <= config.train.ema < 1:
        raise errors.InputError(f"train.ema is {config.train.ema}, but must be in [0, 1)")
    for chosen in teachers(config):
        check(teacher_config(config, chosen))
    if config.baseline and not teachers(config):
        raise errors.InputError("config.baseline compares with a teacher; set config.teacher.model")
    chosen = recipe(config, "", num_classes=2, examples=config.train.batch_size)
    objectives.check_teacher(chosen.objectives, present=bool(teachers(config)))


@contextlib.contextmanager
def claim(folder: pathlib.Path, config: ml_collections.ConfigDict) -> Iterator[None]:
    """Holds a workdir for one run, and keeps the config in it.

    Raises:
      InputError: another process holds it, or it has checkpoints of another config.
    """
    with contextlib.ExitStack() as held:
        parallel.main_first(lambda: _claim(folder, config, held) if parallel.is_main() else None)
        yield


def _claim(
    folder: pathlib.Path, config: ml_collections.ConfigDict, held: contextlib.ExitStack
) -> None:
    wanted = json.loads(config.to_json_best_effort(sort_keys=True))
    path = folder / "config.json"
    try:
        meta = checkpoint.read_meta(folder / "checkpoints")
        if meta and "epoch" not in meta:
            raise errors.InputError(
                f"workdir {folder} holds a converted network, and no run; pass another --workdir"
            )
        folder.mkdir(parents=True, exist_ok=True)
        _lock(folder, held)
        if path.exists() and any((folder / "checkpoints").glob("[0-9]*")):
            _check_same(folder, _read_config(path), wanted)
        report.write_json(path, wanted)
    except OSError as error:
        raise errors.InputError(f"workdir {folder} cannot be used: {error}") from error


def _lock(folder: pathlib.Path, held: contextlib.ExitStack) -> None:
    """Until `held` ends, or this process does, whatever ends it."""
    file = held.enter_context((folder / "lock").open("a+"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        raise errors.InputError(
            f"workdir {folder} is in use by {file.read().strip() or 'another process'}; pass"
            " another --workdir, or wait for it"
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()


def prepare(config: ml_collections.ConfigDict) -> Setting:
    """Opens the data set and the devices."""
    mesh = parallel.make_mesh()
    parallel.check_batch(mesh, config.train.batch_size, config.train.accumulate)
    chosen = config.data
    load = functools.partial(
        data.load,
        chosen.name,
        data_dir=chosen.dir,
        manual_dir=chosen.manual_dir,
        train_split=chosen.train_split,
        test_split=chosen.test_split,
        image_size=chosen.image_size,
        resize=chosen.resize,
        augmentation=chosen.augment,
        feeding=chosen.feed,
        workers=chosen.workers,
        mock_examples=chosen.mock_examples,
    )
    dataset = parallel.main_first(load)  # which prepares the set if there is need
    if config.train.batch_size > len(dataset.train):
        raise errors.InputError(
            f"train.batch_size {config.train.batch_size} is larger than the training split"
            f" '{chosen.train_split}' of {len(dataset.train)} images"
        )
    channels = dataset.image_shape[-1]
    if not len(chosen.mean) == len(chosen.std) == channels:
        raise errors.InputError(
            f"data.mean has {len(chosen.mean)} values and data.std {len(chosen.std)}, but images of"
            f" '{chosen.name}' have {channels} channels"
        )
    return Setting(dataset, mesh)


def train(
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    setting: Setting,
    label: str,
    teacher: fit.Teacher | None = None,
) -> fit.Result:
    """Trains the config's student in `folder`, which is claimed, or goes on with it."""
    dataset = setting.dataset
    chosen = recipe(config, label, dataset.num_classes, len(dataset.train))
    return fit.fit(chosen, folder, dataset, setting.mesh, teacher)


def teachers(config: ml_collections.ConfigDict) -> list[ml_collections.ConfigDict]:
    """The part of each teacher in the config; none where there is no teacher."""
    listed = config.teacher
    if isinstance(listed, ml_collections.ConfigDict):
        listed = [listed]
    return [chosen for chosen in listed if chosen.model]


def teacher_paths(config: ml_collections.ConfigDict, folder: pathlib.Path) -> list[pathlib.Path]:
    """Where the weights of each teacher are, or will be once it is trained."""
    own = (folder / (f"teacher{i}" if i > 1 else "teacher") for i in itertools.count(1))
    return [
        pathlib.Path(chosen.checkpoint or path)
        for chosen, path in zip(teachers(config), own, strict=False)
    ]


def get_teacher(
    config: ml_collections.ConfigDict, folder: pathlib.Path, setting: Setting
) -> tuple[list[fit.Result], fit.Teacher]:
    """The frozen teacher, or several as one.

    One without a checkpoint is trained first, in `folder`/teacher, `folder`/teacher2 and so on.

    Returns:
      The results of their training, and the teacher.

    Raises:
      InputError: a checkpoint is missing, damaged, or of another network or data set.
    """
    results, found = [], []
    for chosen, path in zip(teachers(config), teacher_paths(config, folder), strict=True):
        if not chosen.checkpoint:
            own = teacher_config(config, chosen)
            same = own.data.train_split == config.data.train_split
            with claim(path, own):
                results.append(train(own, path, setting if same else prepare(own), path.name))
        found.append(load_network(config, chosen.model, path, setting))
    return results, together(config, found, setting)


def together(
    config: ml_collections.ConfigDict, found: list[fit.Teacher], setting: Setting
) -> fit.Teacher:
    """The teachers of a config as one."""
    if len(found) == 1:
        return found[0]
    network = models.Ensemble(tuple(one.network for one in found), _shares(config))
    variables = {
        name: tuple(one.variables[name] for one in found) for name in ("params", "batch_stats")
    }
    return _frozen(config, network, variables, setting)


def _shares(config: ml_collections.ConfigDict) -> tuple[float, ...]:
    """The weights of several teachers, adding up to 1."""
    weights = [chosen.weight for chosen in teachers(config)]
    errors.check_positive(**{f"teacher[{i}].weight": weight for i, weight in enumerate(weights)})
    return tuple(weight / sum(weights) for weight in weights)


def load_network(
    config: ml_collections.ConfigDict,
    model: str,
    path: pathlib.Path,
    setting: Setting,
    terms: dict[str, objectives.Objective] | None = None,
) -> fit.Teacher:
    """A frozen network from a checkpoint, on the devices; path as in `weights.load`.

    Args:
      config: for the data and the precision.
      model: the network's name.
      path: of its weights.
      setting: data and devices.
      terms: what a student was trained with; one of them may classify in its place.

    Raises:
      InputError: the checkpoint is missing, damaged, or of another network or data set.
    """
    variables, meta = weights.load(path, model)
    dataset, mesh = setting
    found = (meta["model"], meta["num_classes"], meta["image_shape"][-1])
    needed = (model, dataset.num_classes, dataset.image_shape[-1])
    if found != needed:
        form = "{} for {} classes and {} image channels"
        raise errors.InputError(
            f"the network in {path} is {form.format(*found)}, but config and data need"
            f" {form.format(*needed)}"
        )
    classifier = meta.get("classifier")
    if classifier and classifier not in (terms or {}):
        raise errors.InputError(
            f"the network in {path} was trained with '{classifier}', which classifies in its place:"
            f" it is no teacher, and evaluated with the objective '{classifier}' in the config only"
        )
    network = create_network(config, model, dataset.num_classes)
    variables = parallel.put(parallel.replicated(mesh), variables)
    return _frozen(config, network, variables, setting, terms if classifier else None)


def _frozen(
    config: ml_collections.ConfigDict,
    network: Any,
    variables: Any,
    setting: Setting,
    terms: dict[str, objectives.Objective] | None = None,
) -> fit.Teacher:
    dataset, mesh = setting

    @functools.cache  # a job that is finished already never asks
    def tested():
        predict = program.build_predict(network, _normalize(config), mesh, terms)
        return fit.evaluate(predict, variables, dataset.test, config.train.eval_batch_size, mesh)

    return fit.Teacher(network, variables, tested)


def teacher_config(
    config: ml_collections.ConfigDict, chosen: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
    """The config that trains a teacher of `config`: the same program with cross-entropy only."""
    own = alone_config(config)
    own.student.model = chosen.model
    own.seed = chosen.seed
    own.data.train_split = chosen.train_split or config.data.train_split
    own.train.epochs = chosen.epochs or config.train.epochs
    own.optimizer.learning_rate = chosen.learning_rate or config.optimizer.learning_rate
    return own


def alone_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config that trains `config`'s student without a teacher."""
    own = config.copy_and_resolve_references()
    with own.unlocked(), own.ignore_type():
        own.objectives = {"ce": {"weight": 1.0}}
        if isinstance(own.teacher, list):
            own.teacher = own.teacher[0].copy_and_resolve_references()
    own.method = "ce"
    own.teacher.model = ""
    own.teacher.checkpoint = ""
    own.baseline = False
    return own


def create_network(
    config: ml_collections.ConfigDict, model: str, num_classes: int, platform: str | None = None
) -> Any:
    """A network of `models.create` in the config's precision; platform as in `recipe`."""
    platform = platform or jax.default_backend()
    known = {
        "auto": jnp.float32 if platform == "cpu" else jnp.bfloat16,
        "float32": jnp.float32,
        "bfloat16": jnp.bfloat16,
    }
    dtype = errors.lookup("dtype", config.dtype, known)
    return models.create(model, num_classes, dtype=dtype)


def recipe(
    config: ml_collections.ConfigDict,
    label: str,
    num_classes: int,
    examples: int,
    platform: str | None = None,
) -> program.Recipe:
    """The config as numbers and functions.

    Args:
      config: fields as in configs/common.py.
      label: what the console calls the run.
      num_classes: C.
      examples: of the training split; objectives with a bank are told.
      platform: of the devices, such as cpu or tpu; None for those of this process.

    Raises:
      InputError: an unknown name, or a value out of range.
    """
    terms, factors, warmup = {}, {}, {}
    known = {
        "examples": examples,
        "batch_size": config.train.batch_size // config.train.accumulate,  # at once
    }
    for name, options in config.objectives.items():
        options = dict(options)
        factors[name] = options.pop("weight", 1.0)
        warmup[name] = options.pop("warmup", 0)
        if warmup[name] < 0:
            raise errors.InputError(f"objectives.{name}.warmup is {warmup[name]}; 0 is for none")
        for option, value in known.items():
            if objectives.takes(name, option) and options.get(option) is None:
                options[option] = value
        terms[name] = objectives.create(name, **options)
        if terms[name].needs_teacher and len(teachers(config)) > 1:
            terms[name] = objectives.averaged(name, terms[name], _shares(config))
    if not terms:
        raise errors.InputError("config.objectives is empty; a student needs at least 'ce'")
    chosen, steps_per_epoch = config.optimizer, examples // config.train.batch_size
    schedule = optim.step_schedule(
        chosen.learning_rate,
        optim.boundaries(chosen.milestones, config.train.epochs, steps_per_epoch),
        chosen.decay,
    )
    optimizer = functools.partial(
        optim.sgd,
        momentum=chosen.momentum,
        weight_decay=chosen.weight_decay,
        clip_norm=chosen.clip_norm,
    )
    optimizer(schedule)  # or an error
    _check_together(terms, config.train.ema)
    return program.Recipe(
        label=label,
        model=config.student.model,
        student=create_network(config, config.student.model, num_classes, platform),
        objectives=terms,
        weights=factors,
        warmup=warmup,
        schedule=schedule,
        optimizer=optimizer,
        augment=augment.make_augment(
            config.data.augment,
            mean=config.data.mean,
            std=config.data.std,
            pad=config.data.pad,
            flip=config.data.flip,
        ),
        mix=augment.make_mix(config.data.mix, config.data.mix_alpha),
        normalize=_normalize(config),
        seed=config.seed,
        epochs=config.train.epochs,
        batch_size=config.train.batch_size,
        accumulate=config.train.accumulate,
        ema=config.train.ema,
        shard_parameters=config.shard_parameters,
        eval_batch_size=config.train.eval_batch_size,
        steps_per_dispatch=config.train.steps_per_dispatch,
        log_every=config.train.log_every,
        save_every=config.train.save_every,
    )


def _check_together(terms: dict[str, objectives.Objective], ema: float) -> None:
    """Raises an InputError where objectives, or an average, get in each other's way."""
    classifier = objectives.classifier(terms)
    if classifier and ema:
        raise errors.InputError(
            f"train.ema is {ema}, but the average would leave out what '{classifier}' classifies"
            " with; set it to 0"
        )
    first = [name for name, o in terms.items() if o.stage and o.stage.student]
    if len(first) > 1:
        raise errors.InputError(
            f"objectives {' and '.join(first)} each train the student before distillation; choose"
            " one"
        )


def table(results: list[fit.Result]) -> str:
    """The results of a job, the last epoch's figure first."""
    header = (
        "run",
        "network",
        "test top-1, last epoch",
        "best (epoch)",
        "agreement with teacher",
        "parameters",
        "wall time",
        "checkpoints",
    )
    rows = [
        (
            result.label,
            result.model,
            f"{result.top1:.2f}",
            f"{result.best_top1:.2f} ({result.best_epoch})",
            "-" if result.agreement is None else f"{result.agreement:.2f}",
            f"{result.parameters:,}",
            report.duration(result.seconds),
            result.checkpoint,
        )
        for result in results
    ]
    return report.table(header, rows)


def _normalize(config: ml_collections.ConfigDict) -> Any:
    return augment.make_normalize(config.data.mean, config.data.std)


def _check_same(folder: pathlib.Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    old, new = _flatten(old), _flatten(new)
    differing = [
        f"{field} {old.get(field, 'absent')} there, {new.get(field, 'absent')} here"
        for field in sorted(old | new)
        if old.get(field) != new.get(field) and re.sub(r"\[\d+\]", "", field) not in _FREE
    ]
    if differing:
        raise errors.InputError(
            f"workdir {folder} holds a run of another config ({'; '.join(differing)}): pass another"
            " --workdir, or the values it holds to go on with it"
        )


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise errors.InputError(
            f"{path} is damaged ({error}); delete it to go on with the config given now"
        ) from error


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        listed = value if isinstance(value, list) else []
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        elif listed and all(isinstance(part, dict) for part in listed):
            flat |= _flatten({f"{name}[{i}]": part for i, part in enumerate(listed)}, prefix)
        else:
            flat[f"{prefix}{name}"] = value
    return flat
