"""Jobs: load or train the teacher, then train the comparison runs and the student."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rrd_jax import checkpoints, data, errors, networks, parallel, user_paths
from rrd_jax.data.source import Source
from rrd_jax.data.subsets import labelled_subset, masked_subset
from rrd_jax.evaluation import alignment
from rrd_jax.jobs import growth, job_results, loop, preflight, same_teacher
from rrd_jax.jobs.progress import Result
from rrd_jax.run_folder import atomic_write, startup_time, workdir
from rrd_jax.run_folder.trackers import writers
from rrd_jax.teacher import frozen
from rrd_jax.teacher.frozen import FrozenNetwork
from rrd_jax.terminal import console, interrupts
from rrd_jax.training import recipe
from rrd_jax.training.recipe import Job, Part, TeacherChoice
from rrd_jax.weights import files, pretrained


class Setting(NamedTuple):
    """The data set and the devices of a job's runs."""

    dataset: data.Dataset
    mesh: jax.sharding.Mesh


def run(
    job: Job, folder: pathlib.Path, *, profile: int = 0, dataset: data.Dataset | None = None
) -> list[Result]:
    """Runs a job: loads or trains the teacher, trains the comparison runs, then the student.

    A second call resumes the job. `folder` is the run folder of the student; its subfolders
    teacher, alone and scratch are the other run folders. Prints a table of the results and writes
    results.json.

    Args:
      job: the student, its teachers and its comparison runs.
      folder: the workdir of this job.
      profile: number of steps of the student's run to trace.
      dataset: an open data set that replaces the job's; None to open the job's.

    Raises:
      InputError: a data set, checkpoint or workdir is missing, damaged, or belongs to another job.
      DivergedError: a loss is not finite.
      PreemptedError: the process received SIGTERM or SIGHUP; the state is saved.
    """
    _check_is_run(folder)
    writers.check(job.student.training.report)
    same_teacher.check_paths(job, folder, teacher_paths(job, folder))
    setting = open_data(job, folder, dataset)
    job = job.with_rows(len(setting.dataset.train))
    interrupts.check()
    startup_time.phase("data")
    recipes = preflight.check(job, setting.dataset, teacher_paths(job, folder), setting.mesh)
    _warn_about_bfloat16(job)
    starts = _read_starts(job, folder, setting.dataset, recipes)
    _check_labels(job.student.source, setting.dataset, folder)
    # The workdir is checked now, because training a teacher can take hours.
    with claim(folder, job, job.student) as confirm:
        describe(setting.dataset, folder)
        interrupts.check()
        startup_time.phase("checks")
        trained, teacher = [], None
        if job.teachers:
            trained, teacher = load_teacher(job, folder, setting, starts)
            preflight.check_teacher(recipes[""], setting.dataset, teacher.network)
            homes = [folder / name for name in recipes]
            same_teacher.check_weights(homes, teacher)
            startup_time.phase("teacher")
        confirm()
        compared = {}
        for name, part in job.comparisons.items():
            home = folder / name
            with claim(home, job, part) as confirm:
                confirm()
                start = starts.get(home)
                compared[name] = loop.fit(
                    recipes[name], home, setting.dataset, setting.mesh, teacher, start=start
                )
        start = starts.get(folder)
        student = loop.fit(
            recipes[""],
            folder,
            setting.dataset,
            setting.mesh,
            teacher,
            start=start,
            profile=profile,
        )
        results = [*compared.values(), student]
        if teacher:
            paths = teacher_paths(job, folder)
            results[:0] = job_results.of_teachers(job, folder, teacher, paths, trained)
        if parallel.is_main():
            rows = [result.to_json() for result in results]
            atomic_write.write_json(folder / job_results.FILE, rows)
    console.print_table(*job_results.table(results, compared.get("scratch")), before="\n")
    if metrics := {result.label: result.proof for result in results if result.proof}:
        console.print_table(*alignment.table(metrics), before="\n")
    return results


def _check_is_run(folder: pathlib.Path) -> None:
    """Raises an InputError for RUN@STEP, which only evaluation, export and teachers accept."""
    run_folder, checkpoint_name = files.split(folder)
    if checkpoint_name in ("best", "last") or checkpoint_name.isdecimal():
        raise errors.InputError(
            f"{folder} is a checkpoint of the run in {run_folder}, but training resumes from the"
            f" newest checkpoint; omit @{checkpoint_name}, or use --mode=eval"
        )


def _check_labels(source: Source, dataset: data.Dataset, folder: pathlib.Path) -> None:
    """Warns about the labels of a run's data set; see `Dataset.check_labels`.

    The data of a finished job were checked at an earlier start.
    """
    if (folder / job_results.FILE).exists():
        return
    # A warning of the folder about the same split is in the summary.
    for text in dataset.check_labels(source):
        if text not in dataset.summary.warnings:
            console.warn(text)


def _warn_about_bfloat16(job: Job) -> None:
    """Warns about bfloat16 networks on a CPU that emulates bfloat16 with float32."""
    choices = [("config.dtype", job.student.training.network)]
    choices += [("config.teacher.dtype", teacher.network) for teacher in job.teachers]
    fields = dict.fromkeys(name for name, choice in choices if choice.dtype == jnp.bfloat16)
    if fields and jax.default_backend() == "cpu" and not parallel.has_fast_bfloat16():
        console.warn(
            f"{' and '.join(fields)}: bfloat16 is slower than float32 on this CPU, which has no"
            " bfloat16 instructions; set float32"
        )


def _read_starts(
    job: Job,
    folder: pathlib.Path,
    dataset: data.Dataset,
    recipes: Mapping[str, recipe.Recipe],
) -> dict[pathlib.Path, pretrained.InitialWeights]:
    """Reads the initial weights of runs without checkpoints, by run folder."""
    plans = {folder / name: plan for name, plan in recipes.items()}
    for teacher, path in zip(job.teachers, teacher_paths(job, folder), strict=True):
        if teacher.is_trained_here and teacher.part.training.start:
            training = teacher.part.training
            plans[path] = recipe.create(training, dataset.num_classes, len(dataset.train))
    return {
        home: pretrained.read(plan, dataset)
        for home, plan in plans.items()
        if plan.training.start and checkpoints.read_meta(home / "checkpoints") is None
    }


@contextlib.contextmanager
def claim(folder: pathlib.Path, job: Job, part: Part) -> Iterator[Callable[[], None]]:
    """Locks a folder for a run of a job, and logs changed fields; see `workdir.claim`.

    Yields:
      `workdir.Claim.confirm`. Before it is called, `same_teacher.check_weights` must have accepted
      the teacher of the run.
    """
    with workdir.claim(
        folder,
        part.fields,
        free=job.free_fields,
        growing=("train.epochs",),
        defaults=job.default_fields,
    ) as claimed:
        if claimed.previous:
            growth.describe(folder, part, claimed.previous)
        yield claimed.confirm


def describe(dataset: data.Dataset, folder: pathlib.Path) -> None:
    """Prints a summary of the images, and writes the summary to `folder`/data.json."""
    if not parallel.is_main():
        return
    subset = labelled_subset.describe(dataset.labelled_subset) if dataset.labelled_subset else ""
    for line in dataset.summary.lines:
        console.say(line)
    for text in dataset.summary.warnings:
        console.warn(text)
    if subset:
        console.say(subset)
        for text in dataset.labelled_subset.summary.warnings:
            console.warn(f"eval.labelled: {text}")
    if dataset.masked_subset:
        console.say(masked_subset.describe(dataset.masked_subset))
        for text in dataset.masked_subset.summary.warnings:
            console.warn(f"eval.dense: {text}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "data.json"
    has_runs = any(any(folder.glob(f"{home}checkpoints")) for home in ("", "*/"))
    # A resumed run keeps the summary of its first start.
    if not (path.exists() and has_runs):
        atomic_write.write_json(path, dict(dataset.summary.details))


def open_data(job: Job, folder: pathlib.Path, dataset: data.Dataset | None = None) -> Setting:
    """Opens the devices and the student's data set, with the teacher's classes if needed.

    Args:
      job: the job.
      folder: the job's workdir.
      dataset: an open data set that replaces the job's; None to open the job's.

    Raises:
      InputError: the data set is missing, or does not fit the run or the devices.
    """
    setting = prepare(job.student, dataset)
    dataset = with_teacher_classes(job, folder, setting.dataset)
    return setting._replace(dataset=with_subsets(job, dataset))


def prepare(part: Part, dataset: data.Dataset | None = None) -> Setting:
    """Opens the devices, and the data set of a run unless `dataset` is passed.

    Raises:
      InputError: the data set is missing, or does not fit the run or the devices.
    """
    training, source = part.training, part.source
    mesh = parallel.make_mesh(axes=training.mesh)
    parallel.check_batch(mesh, training.batch_size, training.accumulate)
    if dataset is None:
        # The first process prepares the data set if necessary.
        dataset = parallel.main_first(lambda: data.load(source))
    facts = {"version": dataset.version, "train": len(dataset.train), "test": len(dataset.test)}
    facts["val"] = len(dataset.validation or ())
    parallel.check_agreement({f"data set '{source.name}'": facts})
    if training.batch_size > (count := len(dataset.train)):
        # This batch size results in four to eight steps per epoch.
        suggestion = 2 ** max(count.bit_length() - 3, 0)
        raise errors.FieldError(
            f"train.batch_size {training.batch_size} is larger than the training split"
            f" '{source.train_split}' of {count} images{_degradation(source, dataset)}; set"
            f" --config.train.batch_size={suggestion}, or batch_size={suggestion} in Python"
        )
    channels = dataset.image_shape[-1]
    if not len(training.mean) == len(training.std) == channels:
        raise errors.FieldError(
            f"data.mean has {len(training.mean)} values and data.std {len(training.std)}, but"
            f" images of '{source.name}' have {channels} channels; set one value per channel"
        )
    return Setting(dataset, mesh)


def with_teacher_classes(job: Job, folder: pathlib.Path, dataset: data.Dataset) -> data.Dataset:
    """Returns the data set with the teacher's classes if a student without labels needs them.

    A student without labels needs classes if an objective compares logits.

    Args:
      job: the job.
      folder: the job's workdir.
      dataset: the student's data set.
    """
    if dataset.labelled or not any(o.needs_classes for o in job.student.training.objectives):
        return dataset
    for teacher, path in zip(job.teachers, teacher_paths(job, folder), strict=True):
        count, names = _classes_of(teacher, path, dataset)
        if count:
            return dataclasses.replace(dataset, num_classes=count, class_names=names)
    return dataset


def with_subsets(job: Job, dataset: data.Dataset) -> data.Dataset:
    """Returns the data set with the images of eval.labelled and of eval.dense."""
    return _with_masked_subset(job, _with_labelled_subset(job, dataset))


def _with_labelled_subset(job: Job, dataset: data.Dataset) -> data.Dataset:
    """Returns the data set with the labeled images of eval.labelled, if the job has a teacher."""
    choice = job.student.training.alignment
    if not (choice.labelled and job.teachers):
        return dataset
    subset = _open_in_all_processes(
        "eval.labelled",
        lambda: labelled_subset.open_labelled_subset(
            choice.labelled, choice.per_class, job.student.source, dataset
        ),
    )
    return dataclasses.replace(dataset, labelled_subset=subset)


def _with_masked_subset(job: Job, dataset: data.Dataset) -> data.Dataset:
    """Returns the data set with the images and masks of eval.dense, if the job has a teacher."""
    choice = job.student.training.alignment
    if not (choice.dense and job.teachers):
        return dataset
    subset = _open_in_all_processes(
        "eval.dense",
        lambda: masked_subset.open_masked_subset(
            choice.dense, choice.dense_images, job.student.source, dataset
        ),
    )
    return dataclasses.replace(dataset, masked_subset=subset)


def _open_in_all_processes(field: str, open_subset: Callable[[], Any]) -> Any:
    """Opens the subset of a field; raises an InputError if the processes see different images."""
    subset = parallel.main_first(open_subset)
    counts = {"version": subset.version, "train": len(subset.train), "test": len(subset.test)}
    parallel.check_agreement({field: counts})
    return subset


def _classes_of(
    teacher: TeacherChoice, path: pathlib.Path, dataset: data.Dataset
) -> tuple[int, tuple[str, ...]]:
    """Returns a teacher's number of classes, 0 without a classifier, and their names if known."""
    if teacher.variables is not None:
        logits = networks.summarize(teacher.network.create(0), dataset.image_shape).outputs.logits
        return (0 if isinstance(logits, tuple) else logits.shape[-1]), ()
    if teacher.is_trained_here:
        reopen, source = dataset.reopen or data.load, teacher.part.source
        labelled = parallel.main_first(lambda: reopen(source))
        return labelled.num_classes, labelled.class_names
    _, meta = files.load(path, teacher.network.model, headless=True)
    return meta["num_classes"], pretrained.class_names(meta, path)


def _degradation(source: Source, dataset: data.Dataset) -> str:
    """Returns a clause with the config fields that reduce the training images."""
    counts = dataset.summary.details.get("degraded", {"images": 0, "of": 0})
    if counts["images"] == counts["of"]:
        return ""
    values = {name: getattr(source, name) for name in ("val_split", "per_class")}
    values |= {"share": source.share < 1, "imbalance": source.imbalance > 1}
    fields = [f"data.{name} {getattr(source, name):g}" for name, value in values.items() if value]
    return f" ({', '.join(fields)})"


def train(
    part: Part,
    folder: pathlib.Path,
    setting: Setting,
    teacher: FrozenNetwork | None = None,
    start: pretrained.InitialWeights | None = None,
) -> Result:
    """Trains or resumes a run.

    Args:
      part: the run.
      folder: the run folder, locked by `claim`.
      setting: the run's data set and devices.
      teacher: the teacher; None if no objective needs a teacher.
      start: initial weights; None to read the weights of the recipe, if any.
    """
    dataset, mesh = setting
    plan = recipe.create(part.training, dataset.num_classes, len(dataset.train))
    return loop.fit(plan, folder, dataset, mesh, teacher, start=start)


def teacher_paths(job: Job, folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the path of each teacher's weights, which may not exist before training."""
    return [
        user_paths.path_of(teacher.checkpoint)
        if teacher.checkpoint
        else folder / teacher.part.training.label
        for teacher in job.teachers
    ]


def load_teacher(
    job: Job,
    folder: pathlib.Path,
    setting: Setting,
    starts: Mapping[pathlib.Path, pretrained.InitialWeights] | None = None,
) -> tuple[list[Result], FrozenNetwork]:
    """Loads the teacher, or several teachers as an ensemble; trains teachers without checkpoint.

    Args:
      job: the job.
      folder: the job's workdir; teachers are trained in its subfolders teacher, teacher2 and so on.
      setting: the student's data set and devices.
      starts: initial weights of teachers by run folder; None to read the weights of the recipes.

    Returns:
      The results of the teachers' training, and the teacher or ensemble.

    Raises:
      InputError: a checkpoint is missing, damaged, or of another network or data set.
    """
    training, paths = job.student.training, teacher_paths(job, folder)
    dataset, mesh = setting
    results: list[Result] = []
    loaded: dict[int, FrozenNetwork] = {}
    # Existing checkpoints are loaded first, because training can take hours before an error.
    order = sorted(enumerate(job.teachers), key=lambda pair: pair[1].is_trained_here)
    for i, teacher in order:
        interrupts.check()
        teacher, path = growth.as_trained(teacher, paths[i]), paths[i]
        if teacher.variables is not None:
            loaded[i] = frozen.from_variables(
                teacher.network,
                teacher.variables,
                path / "views",
                dataset,
                mesh,
                training,
                teacher.teaching,
            )
            continue
        if teacher.is_trained_here:
            shares_data = teacher.part.source == job.student.source
            with claim(path, job, teacher.part) as confirm:
                confirm()
                teacher_setting = (
                    setting if shares_data else _prepare_teacher(teacher.part, setting)
                )
                if not shares_data:
                    _check_labels(teacher.part.source, teacher_setting.dataset, path)
                start = (starts or {}).get(path)
                results.append(train(teacher.part, path, teacher_setting, start=start))
        loaded[i] = frozen.load(
            teacher.network, path, dataset, mesh, training, teaching=teacher.teaching
        )
    for i, teacher in enumerate(job.teachers):
        interrupts.check()
        loaded[i] = frozen.with_probe(loaded[i], teacher.teaching, folder)
    teachers = [loaded[i] for i in range(len(order))]
    combined = frozen.combine(teachers, training.teacher_weights)
    return results, dataclasses.replace(combined, is_examined=not job.student.source.mock_examples)


def _prepare_teacher(part: Part, setting: Setting) -> Setting:
    """Opens the setting of a teacher whose images or labels differ from the student's."""
    reopen = setting.dataset.reopen
    dataset = parallel.main_first(lambda: reopen(part.source)) if reopen else None
    teacher_setting = prepare(part, dataset)
    dataset = teacher_setting.dataset
    if dataset.version != setting.dataset.version and parallel.is_main():
        console.say(
            f"[{part.training.label}] training images: {len(dataset.train):,} of"
            f" {dataset.display_name}"
        )
    return teacher_setting
