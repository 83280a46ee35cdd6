"""The train step of a config, compiled as in a run, with its arguments."""

import dataclasses
import pathlib
import tempfile
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from rrd_jax import checkpoints, data, errors, networks, parallel
from rrd_jax.config import parse
from rrd_jax.cpu import compiling
from rrd_jax.jobs import job, loop
from rrd_jax.jobs import run as runs
from rrd_jax.jobs.run import Run
from rrd_jax.objectives.batch import Batch
from rrd_jax.teacher import ensemble, row_format
from rrd_jax.teacher.frozen import FrozenNetwork
from rrd_jax.terminal import console
from rrd_jax.training import recipe
from rrd_jax.training.recipe import Job
from rrd_jax.training.step import Split

# Number of classes of random images for a missing data set.
_CLASSES = 100


@dataclasses.dataclass
class Step:
    """A compiled train step with its arguments.

    Attributes:
      lowered: the lowered step.
      compiled: (state, teacher, batch) -> (state, logged); the state is donated.
      state: the student's state.
      teacher: the teacher's variables or cached embeddings; None without a teacher.
      batch: the batch or split that each call reads.
      count: number of steps per call.
      about: description of the step, for the table.
    """

    lowered: jax.stages.Lowered
    compiled: jax.stages.Compiled
    state: Any
    teacher: Any
    batch: Batch | Split
    count: int
    about: dict[str, Any]

    def __call__(self) -> Any:
        """Runs `count` steps and returns the logged values."""
        self.state, logged = self.compiled(self.state, self.teacher, self.batch)
        return logged


def prepare(config: ConfigDict, explicit: Any = None, examples: int = 0) -> Step:
    """Returns the step of a config's student with random images and random weights.

    For sources by import path, of Hugging Face and for folders, the images are the first images of
    the source, if it exists.

    Args:
      config: the config, which is not changed.
      explicit: fields that were set explicitly, see `parse`.
      examples: number of training images; 0 for `data.mock_examples`, or for four batches if that
        field is 0.

    Raises:
      InputError: the config is invalid, or there are fewer images than a batch has.
    """
    plan = parse(_with_mock_examples(config, examples), explicit=explicit)
    setting = _open(plan.student)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        teacher = _teacher(plan, folder, setting)
        dataset, training = setting.dataset, plan.student.training
        student_recipe = recipe.create(training, dataset.num_classes, len(dataset.train))
        with checkpoints.Checkpoints(folder / "checkpoints") as manager:
            run = runs.create(student_recipe, folder, dataset, setting.mesh, teacher, manager)
    return _compile(run)


def _open(part: recipe.Part) -> job.Setting:
    """Returns the devices and the data set of `data.mock_examples`, or random images."""
    try:
        return job.prepare(part)
    except errors.InputError as error:
        source = part.source
        count, side, channels = source.mock_examples, source.image_size, len(part.training.mean)
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (count, side, side, channels), np.uint8)
        labels = np.arange(count) % _CLASSES
        source = dataclasses.replace(source, name="", mock_examples=0, class_names="", options=())
        arrays = images, labels
        dataset = data.from_sources(arrays, arrays, source, num_classes=_CLASSES)
        setting = job.prepare(part, dataset)
        console.warn(f"using random images of {_CLASSES} classes instead of the data: {error}")
        return setting


def _with_mock_examples(config: ConfigDict, examples: int) -> ConfigDict:
    config = config.copy_and_resolve_references()
    count = examples or config.data.mock_examples or 4 * config.train.batch_size
    if count < config.train.batch_size:
        raise errors.InputError(
            f"--examples={count} is less than the batch size; set at least"
            f" {config.train.batch_size}"
        )
    config.data.mock_examples = count
    return config


def _teacher(plan: Job, folder: pathlib.Path, setting: job.Setting) -> FrozenNetwork | None:
    """Returns the job's teachers as one network with random weights."""
    if not plan.teachers:
        return None
    teachers = []
    for choice in plan.teachers:
        network = choice.network.create(setting.dataset.num_classes)
        variables = networks.init(network, jax.random.key(1), setting.dataset.image_shape)
        teachers.append(dataclasses.replace(choice, variables=variables))
    plan = dataclasses.replace(plan, teachers=tuple(teachers))
    _, teacher = job.load_teacher(plan, folder, setting)
    return teacher


def _compile(run: Run) -> Step:
    program, training = run.program, run.recipe.training
    teacher = None
    if run.teacher_network:
        teacher = _random_embeddings(run) if run.teacher_is_cached else run.teacher.variables
    variables = run.teacher.variables if run.teacher_network else None
    state = program.create(training.seed, variables)
    calls = loop.dispatches(run.recipe, run.dataset, run.mesh, program.length, start=0)
    count, batch = next(calls)
    calls.close()
    # Most steps of a run use this program.
    step = program.train(program.late_from, count)
    lowered = step.lower(state, teacher, batch)
    compiled = compiling.compiled_program(step, state, teacher, batch)
    about = {
        "student": training.network.model,
        "objectives": " + ".join(choice.name for choice in training.objectives),
        "batch": training.batch_size,
        "image": list(run.dataset.image_shape),
        "teacher": _describe_teacher(run),
        "device": f"{run.mesh.size} {run.mesh.devices.flat[0].device_kind}",
    }
    return Step(lowered, compiled, state, teacher, batch, count, about)


def _describe_teacher(run: Run) -> str:
    if not run.teacher_network:
        return ""
    models = " and ".join(origin["model"] for origin in run.teacher.origins)
    return f"{models}, {'cached' if run.teacher_is_cached else 'live'}"


def _random_embeddings(run: Run) -> dict[str, tuple[Any, ...]]:
    """Returns random embeddings in the form of the teacher cache."""
    dataset: data.Dataset = run.dataset
    rows = len(dataset.train) * run.recipe.training.augment.views
    split = parallel.split(run.mesh)
    tables, heads = [], []
    for member, variables in ensemble.members(run.teacher.network, run.teacher.variables):
        layout = row_format.of_network(
            member,
            dataset.image_shape,
            run.recipe.training.teacher_cache.dtype,
            has_patches=run.recipe.reads_patches,
        )
        shape = (-(-rows // run.mesh.size) * run.mesh.size, layout.width)
        table = jax.random.normal(jax.random.key(2), shape).astype(layout.dtype)
        tables.append(jax.device_put(table, split))
        has_head = bool(layout.outputs.head)
        head = networks.head(member, variables, dataset.image_shape) if has_head else ()
        heads.append(head)
    return {"embedding": tuple(tables), "head": tuple(heads)}
