"""The job: open the data, train or load the teacher, train the student alone, train the student."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import (
    console,
    data,
    errors,
    loop,
    networks,
    parallel,
    recipe,
    report,
    tables,
    workdir,
)
from rrd_jax import objectives as registry
from rrd_jax.batch import Batch
from rrd_jax.convert import files
from rrd_jax.recipe import Job, Part, TeacherChoice
from rrd_jax.run import Result, finished
from rrd_jax.teacher import cache, ensemble, frozen
from rrd_jax.teacher.frozen import FrozenNetwork


class Setting(NamedTuple):
    """What the runs of a job share."""

    dataset: data.Dataset
    mesh: jax.sharding.Mesh


def run(
    job: Job, folder: pathlib.Path, *, profile: int = 0, dataset: data.Dataset | None = None
) -> list[Result]:
    """The whole job: the teacher if there is none yet, the student alone if asked, the student.

    A second call goes on where the first one stopped. The student's run lies in `folder`, the
    others in `folder`/teacher and `folder`/alone. Ends with a table, kept in results.json.

    Args:
      job: what to do.
      folder: the workdir; it belongs to one job.
      profile: of the student's run, the number of steps to trace.
      dataset: one that is open already, in place of the job's.

    Raises:
      InputError: a data set, checkpoint or workdir that is missing, damaged or another's.
      DivergedError: a loss is not finite.
      PreemptedError: SIGTERM came; the state is saved.
    """
    run_folder, which = files.split(folder)
    if which in ("best", "last") or which.isdecimal():
        raise errors.InputError(
            f"{folder} is a checkpoint of the run in {run_folder}, which can be evaluated, exported"
            " or used as a teacher; a run goes on from its newest one: leave"
            f" @{which} out, or use --mode=eval"
        )
    setting = prepare(job.student, dataset)
    check(job, setting)
    with claim(folder, job, job.student):  # before hours go into a teacher
        describe(setting.dataset, folder)
        results, teacher = [], None
        if job.teachers:
            results, teacher = get_teacher(job, folder, setting)
        if job.alone:
            with claim(folder / "alone", job, job.alone):
                results.append(train(job.alone, folder / "alone", setting, teacher))
        results.append(train(job.student, folder, setting, teacher, profile))
        if parallel.is_main():
            rows = [result._asdict() for result in results]
            report.write_json(folder / "results.json", rows)
    console.print_table(*table(results), before="\n")
    return results


@contextlib.contextmanager
def claim(folder: pathlib.Path, job: Job, part: Part) -> Iterator[None]:
    """Locks a folder for one run of a job, and says what is new there; see `workdir.claim`."""
    rules = {
        "free": job.free_fields,
        "growing": ("train.epochs",),
        "defaults": job.default_fields,
    }
    with workdir.claim(folder, part.fields, **rules) as before:
        if before:
            _say_growth(folder, part, before)
        yield


def _epochs(fields: Mapping[str, Any]) -> int:
    """Of the fields that a folder keeps; 0 where they do not say."""
    epochs = workdir.flatten(fields).get("train.epochs")
    return epochs if isinstance(epochs, int) else 0


def _say_growth(folder: pathlib.Path, part: Part, before: Mapping[str, Any]) -> None:
    """Says whether a run with more epochs than before is what it were with these from its start."""
    epochs, training = _epochs(before), part.training
    if not 0 < epochs < training.epochs:
        return
    steps = 10  # of an epoch: schedules have a shape, whatever it is drawn on
    shorter, longer = (training.optimizer.schedule(n, steps) for n in (epochs, training.epochs))
    made = range(epochs * steps)
    if np.allclose([shorter(i) for i in made], [longer(i) for i in made], equal_nan=True):
        console.note(f"{folder} grows from {epochs} epochs to {training.epochs}, exactly")
        return
    console.warn(
        f"{folder} grows from {epochs} epochs to {training.epochs}, but its learning rates so far"
        f" are those of {epochs}: another run than {training.epochs} epochs from the start, with"
        f" the rate at {float(shorter(made[-1])):.3g}, now {float(longer(len(made))):.3g}. Another"
        " --workdir trains from the start"
    )


def describe(dataset: data.Dataset, folder: pathlib.Path) -> None:
    """Says what the images are, and keeps it in `folder`/data.json."""
    if not parallel.is_main():
        return
    for line in dataset.summary.lines:
        console.say(line)
    for text in dataset.summary.warnings:
        console.warn(text)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "data.json"
    if not (path.exists() and any(folder.glob("**/checkpoints"))):  # a run's stays what it was
        report.write_json(path, dict(dataset.summary.figures))


def prepare(part: Part, dataset: data.Dataset | None = None) -> Setting:
    """Opens the data set, unless one is given, and the devices of a run.

    Raises:
      InputError: the data set is missing, or does not fit the run or the devices.
    """
    training, source = part.training, part.source
    mesh = parallel.make_mesh()
    parallel.check_batch(mesh, training.batch_size, training.accumulate)
    if dataset is None:
        dataset = parallel.main_first(lambda: data.load(source))  # which prepares it if need be
    about = {"version": dataset.version, "train": len(dataset.train), "test": len(dataset.test)}
    parallel.check_agreement({f"data set '{source.name}'": about})
    if training.batch_size > len(dataset.train):
        raise errors.InputError(
            f"train.batch_size {training.batch_size} is larger than the training split"
            f" '{source.train_split}' of {len(dataset.train)} images"
        )
    channels = dataset.image_shape[-1]
    if not len(training.mean) == len(training.std) == channels:
        raise errors.InputError(
            f"data.mean has {len(training.mean)} values and data.std {len(training.std)}, but"
            f" images of '{source.name}' have {channels} channels"
        )
    return Setting(dataset, mesh)


def check(job: Job, setting: Setting) -> None:
    """Traces what users bring, and the objectives, before hours go into a teacher.

    Raises:
      InputError: a network is none, or lacks what an objective compares; an objective or a schedule
        is none; the teacher cannot be cached, but is to be; shapes beyond the memory.
    """
    dataset, training = setting.dataset, job.student.training
    _check_steps(job, len(dataset.train))
    # Schedules see their real length.
    plan, *_ = [
        recipe.create(part.training, dataset.num_classes, len(dataset.train))
        for part in filter(None, (job.student, job.alone))
    ]
    choices = [training.network, *(teacher.network for teacher in job.teachers)]
    made = [choice.create(dataset.num_classes) for choice in choices]
    for choice, network in zip(choices, made, strict=True):
        if isinstance(network, networks.Brought) or choice.network is not None:
            networks.check(network, choice.model, dataset.num_classes, dataset.image_shape)
    student, *teachers = (networks.summarize(n, dataset.image_shape).outputs for n in made)
    teacher = ensemble.outputs_of(teachers, training.teacher_weights)
    part = training.batch_size // training.accumulate
    cache.check(training, plan.objectives, streamed=not dataset.train.on_device)
    batch = _batch(part, dataset.image_shape, mixes=training.mix is not None)
    states = {
        name: registry.check(name, objective, student, teacher, batch)
        for name, objective in plan.objectives.items()
    }
    maps = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((part, *leaf.shape[1:]), leaf.dtype), student.maps
    )
    # A checkpoint is written from a copy.
    needs = {f"objective '{name}' keeps, with a copy,": (s, s) for name, s in states.items()}
    needs |= {f"the student's maps of {part} images take": maps}
    _check_memory(needs, parallel.machine_bytes())


def _check_memory(needs: dict[str, Any], memory: int) -> None:
    """Raises an InputError for arrays that the whole machine cannot hold.

    Args:
      needs: shapes, by what is said of them.
      memory: bytes of all hosts and devices.
    """
    for what, tree in needs.items():
        leaves = jax.tree.leaves(tree)
        if sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) <= memory:
            continue
        largest = max(leaves, key=lambda leaf: leaf.size)
        axes = " x ".join(map(str, largest.shape))
        size = largest.size * largest.dtype.itemsize / 1e9
        raise errors.InputError(
            f"{what} more than the {memory / 1e9:.3g} GB of memory: one array alone is {axes} x"
            f" {largest.dtype.itemsize} bytes = {size:.3g} GB; make it or the batch smaller"
        )


def _check_steps(job: Job, examples: int) -> None:
    """Raises an InputError for a training of more steps than 32 bits count."""
    for part in (job.student, *(teacher.part for teacher in job.teachers)):
        epochs, steps = part.training.epochs, examples // part.training.batch_size
        if epochs * steps >= 2**31:
            raise errors.InputError(
                f"train.epochs {epochs} x {steps} steps = {epochs * steps}, but steps are counted"
                " below 2**31"
            )


def _batch(size: int, image_shape: tuple[int, int, int], *, mixes: bool) -> Batch:
    """A batch as objectives see it, as shapes."""
    images = jax.ShapeDtypeStruct((size, *image_shape), jnp.float32)
    numbers = jax.ShapeDtypeStruct((size,), jnp.int32)
    share = jax.ShapeDtypeStruct((size,), jnp.float32)
    return Batch(images, numbers, numbers, numbers, *((numbers, share) if mixes else ()))


def train(
    part: Part,
    folder: pathlib.Path,
    setting: Setting,
    teacher: FrozenNetwork | None = None,
    profile: int = 0,
) -> Result:
    """Trains the network of a run in `folder`, which is claimed, or goes on with it."""
    dataset, mesh = setting
    plan = recipe.create(part.training, dataset.num_classes, len(dataset.train))
    return loop.fit(plan, folder, dataset, mesh, teacher, profile=profile)


def teacher_paths(job: Job, folder: pathlib.Path) -> list[pathlib.Path]:
    """Where the weights of each teacher are, or will be once it is trained."""
    return [
        pathlib.Path(teacher.checkpoint or folder / teacher.part.training.label)
        for teacher in job.teachers
    ]


def get_teacher(
    job: Job, folder: pathlib.Path, setting: Setting
) -> tuple[list[Result], FrozenNetwork]:
    """The frozen teacher, or several as one.

    A teacher without a checkpoint is trained first, in `folder`/teacher, `folder`/teacher2 and so
    on.

    Returns:
      The results of their training, and the teacher.

    Raises:
      InputError: a checkpoint is missing, damaged, or of another network or data set.
    """
    training, paths = job.student.training, teacher_paths(job, folder)
    results: list[Result] = []
    ready: dict[int, FrozenNetwork] = {}
    # Those that are there come first: what is wrong with them is known before hours of training.
    order = sorted(enumerate(job.teachers), key=lambda pair: _is_trained_here(pair[1]))
    for i, teacher in order:
        teacher = _as_trained(teacher, paths[i], setting.dataset)
        if teacher.variables is not None:
            given = (teacher.network, teacher.variables, paths[i] / "views")
            ready[i] = frozen.from_variables(*given, *setting, training)
            continue
        if _is_trained_here(teacher):
            same = teacher.part.source == job.student.source
            with claim(paths[i], job, teacher.part):
                teacher_setting = setting if same else prepare(teacher.part)
                results.append(train(teacher.part, paths[i], teacher_setting))
        ready[i] = frozen.load(teacher.network, paths[i], *setting, training)
    teachers = [ready[i] for i in range(len(order))]
    whole = frozen.as_ensemble(teachers, training.teacher_weights)
    return results, dataclasses.replace(whole, examined=not job.student.source.mock_examples)


def _is_trained_here(teacher: TeacherChoice) -> bool:
    return teacher.variables is None and not teacher.checkpoint


def _as_trained(teacher: TeacherChoice, path: pathlib.Path, dataset: data.Dataset) -> TeacherChoice:
    """A teacher whose epochs follow those of a run that grew: it stays as it was trained."""
    if teacher.checkpoint or not teacher.follows:
        return teacher
    epochs = _epochs(workdir.read_fields(path) or {})
    if not 0 < epochs < teacher.part.training.epochs:
        return teacher
    if not finished(path, epochs, dataset.version):
        return teacher
    console.note(f"the teacher in {path} stays as it was trained, with {epochs} epochs")
    fields = teacher.part.fields
    part = dataclasses.replace(
        teacher.part,
        training=dataclasses.replace(teacher.part.training, epochs=epochs),
        fields=fields | {"train": fields["train"] | {"epochs": epochs}},
    )
    return dataclasses.replace(teacher, part=part)


def table(results: list[Result]) -> tables.Table:
    """Header and rows: the results of a job, the last epoch's figure first."""
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
    return header, rows
