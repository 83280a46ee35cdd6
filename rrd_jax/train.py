"""The job of a config: check it, open the data, train or load the teacher, train the student."""

import contextlib
import functools
import itertools
import json
import pathlib
from typing import Any, NamedTuple

import jax
import ml_collections

from rrd_jax import (
    data,
    errors,
    fit,
    objectives,
    parallel,
    program,
    recipes,
    report,
    runs,
    workdir,
)
from rrd_jax.convert import files
from rrd_jax.teacher import cache, ensemble, fold

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


def run(config: ml_collections.ConfigDict, workdir: str, *, profile: int = 0) -> list[runs.Result]:
    """The whole job: the teacher if there is none yet, the student alone if asked, the student.

    A second call goes on where the first one stopped. The student's run lies in `workdir`, the
    others in `workdir`/teacher and `workdir`/alone. Ends with a table, kept in results.json.

    Args:
      config: fields as in configs/common.py.
      workdir: folder to write to; it belongs to one config.
      profile: of the student's run, the number of steps to trace.

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
        if recipes.teachers(config):
            results, teacher = get_teacher(config, folder, setting)
        if config.baseline:
            alone = recipes.alone_config(config)
            with claim(folder / "alone", alone):
                results.append(train(alone, folder / "alone", setting, "student alone", teacher))
        label = f"distilled, {config.method}" if teacher else "student"
        results.append(train(config, folder, setting, label, teacher, profile))
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
    for chosen in recipes.teachers(config):
        check(recipes.teacher_config(config, chosen))
        recipes.create_network(config, chosen.model, num_classes=2, dtype=chosen.dtype)
    if config.baseline and not recipes.teachers(config):
        raise errors.InputError("config.baseline compares with a teacher; set config.teacher.model")
    chosen = recipes.from_config(config, "", num_classes=2, examples=config.train.batch_size)
    objectives.check_teacher(chosen.objectives, present=bool(recipes.teachers(config)))


def claim(
    folder: pathlib.Path, config: ml_collections.ConfigDict
) -> contextlib.AbstractContextManager[None]:
    """Holds a workdir for one run of this config; see `workdir.claim`."""
    wanted = json.loads(config.to_json_best_effort(sort_keys=True))
    return workdir.claim(folder, wanted, free=_FREE)


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
    teacher: runs.Teacher | None = None,
    profile: int = 0,
) -> runs.Result:
    """Trains the config's student in `folder`, which is claimed, or goes on with it."""
    (result,) = train_together({folder: config}, setting, [label], teacher, profile)
    return result


def train_together(
    configs: dict[pathlib.Path, ml_collections.ConfigDict],
    setting: Setting,
    labels: list[str],
    teacher: runs.Teacher | None = None,
    profile: int = 0,
) -> list[runs.Result]:
    """The same for students that differ in their seeds, step by step in one program."""
    dataset, mesh = setting
    chosen = {
        folder: recipes.from_config(config, label, dataset.num_classes, len(dataset.train))
        for (folder, config), label in zip(configs.items(), labels, strict=True)
    }
    return fit.fit(chosen, dataset, mesh, teacher, profile=profile)


def teacher_paths(config: ml_collections.ConfigDict, folder: pathlib.Path) -> list[pathlib.Path]:
    """Where the weights of each teacher are, or will be once it is trained."""
    own = (folder / (f"teacher{i}" if i > 1 else "teacher") for i in itertools.count(1))
    return [
        pathlib.Path(chosen.checkpoint or path)
        for chosen, path in zip(recipes.teachers(config), own, strict=False)
    ]


def get_teacher(
    config: ml_collections.ConfigDict, folder: pathlib.Path, setting: Setting
) -> tuple[list[runs.Result], runs.Teacher]:
    """The frozen teacher, or several as one.

    One without a checkpoint is trained first, in `folder`/teacher, `folder`/teacher2 and so on.

    Returns:
      The results of their training, and the teacher.

    Raises:
      InputError: a checkpoint is missing, damaged, or of another network or data set.
    """
    results, found = [], []
    for chosen, path in zip(recipes.teachers(config), teacher_paths(config, folder), strict=True):
        if not chosen.checkpoint:
            own = recipes.teacher_config(config, chosen)
            same = own.data.train_split == config.data.train_split
            with claim(path, own):
                results.append(train(own, path, setting if same else prepare(own), path.name))
        found.append(load_network(config, chosen.model, path, setting, dtype=chosen.dtype))
    return results, together(config, found, setting)


def together(
    config: ml_collections.ConfigDict, found: list[runs.Teacher], setting: Setting
) -> runs.Teacher:
    """The teachers of a config as one."""
    if len(found) == 1:
        return found[0]
    network = ensemble.Ensemble(tuple(one.network for one in found), recipes.shares(config))
    variables = ensemble.stack_variables([one.variables for one in found])
    folders = [folder for one in found for folder in one.folders]
    return _frozen(config, network, variables, setting, folders)


def load_network(
    config: ml_collections.ConfigDict,
    model: str,
    path: pathlib.Path,
    setting: Setting,
    terms: dict[str, objectives.Objective] | None = None,
    dtype: str = "",
) -> runs.Teacher:
    """A frozen network from a checkpoint, on the devices; path as in `files.load`.

    Args:
      config: for the data, and the precision where `dtype` is "".
      model: the network's name.
      path: of its weights.
      setting: data and devices.
      terms: what a student was trained with; one of them may classify in its place.
      dtype: what its convolutions compute in, as in the config.

    Raises:
      InputError: the checkpoint is missing, damaged, or of another network or data set.
    """
    variables, meta = files.load(path, model)
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
    network = recipes.create_network(config, model, dataset.num_classes, dtype=dtype)
    variables = parallel.put(parallel.replicated(mesh), variables)
    home = path.parent if path.name == "checkpoints" else path
    folders = [home / "views" if path.is_dir() else path.with_name(f"{path.name}.views")]
    return _frozen(config, network, variables, setting, folders, terms if classifier else None)


def _frozen(
    config: ml_collections.ConfigDict,
    network: Any,
    variables: Any,
    setting: Setting,
    folders: list[pathlib.Path],
    terms: dict[str, objectives.Objective] | None = None,
) -> runs.Teacher:
    dataset, mesh = setting

    @functools.cache
    def folded():
        folding = functools.partial(fold.fold, network, image_shape=dataset.image_shape)
        return jax.jit(folding, out_shardings=parallel.replicated(mesh))(variables)

    @functools.cache  # a job that is finished already never asks
    def tested():
        predict = program.build_predict(network, recipes.normalize(config), mesh, terms)
        return runs.evaluate(predict, variables, dataset.test, config.train.eval_batch_size, mesh)

    remembered = None
    if dataset.train.on_device:
        remembered = cache.Views(network, variables, folded, folders, dataset.train, mesh)
    return runs.Teacher(network, variables, folded, tested, tuple(folders), remembered)


def table(results: list[runs.Result]) -> str:
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
