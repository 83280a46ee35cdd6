"""A config's train step, compiled as a run compiles it, and what to call it with."""

import dataclasses
import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rrd_jax import checkpoints, data, errors, networks, parallel
from rrd_jax.config import parse
from rrd_jax.cpu import compiling
from rrd_jax.jobs import job, loop
from rrd_jax.jobs import run as runs
from rrd_jax.jobs.run import Run
from rrd_jax.objectives.batch import Batch
from rrd_jax.teacher import ensemble, step_outputs
from rrd_jax.teacher.frozen import FrozenNetwork
from rrd_jax.terminal import console
from rrd_jax.training import recipe
from rrd_jax.training.recipe import Job
from rrd_jax.training.step import Split

_CLASSES = 100  # of data that are not there, and do not say


@dataclasses.dataclass
class Step:
    """A compiled train step with its arguments.

    Attributes:
      lowered: what is compiled.
      compiled: (state, teacher, batch) -> (state, logged); the state is donated.
      state: of the student.
      teacher: its variables or its embeddings; None for none.
      batch: what each call sees.
      count: steps that one call makes.
      about: what it is, by name, for the table.
    """

    lowered: jax.stages.Lowered
    compiled: jax.stages.Compiled
    state: Any
    teacher: Any
    batch: Batch | Split
    count: int
    about: dict[str, Any]

    def __call__(self) -> Any:
        """Makes `count` steps; returns what they log."""
        self.state, logged = self.compiled(self.state, self.teacher, self.batch)
        return logged


def prepare(config: ConfigDict, explicit: Any = None, examples: int = 0) -> Step:
    """The step of a config's student, on random images of its size, with random weights.

    Images by import path, of Hugging Face or of a folder are the first of their own, if there.

    Args:
      config: it is not changed.
      explicit: as `parse` has it.
      examples: images that stand in for the training split; 0 for the config's, or four batches.
    """
    plan = parse(_mocked(config, examples), explicit=explicit)
    setting = _open(plan.student)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        teacher = _teacher(plan, folder, setting)
        dataset, training = setting.dataset, plan.student.training
        chosen = recipe.create(training, dataset.num_classes, len(dataset.train))
        with checkpoints.Checkpoints(folder / "checkpoints") as kept:
            run = runs.create(chosen, folder, dataset, setting.mesh, teacher, kept)
    return _compiled(run)


def _open(part: recipe.Part) -> job.Setting:
    """The devices, and the images that `data.mock_examples` asks for, or random ones."""
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
        console.warn(f"random images of {_CLASSES} classes stand in for the data: {error}")
        return setting


def _mocked(config: ConfigDict, examples: int) -> ConfigDict:
    config = config.copy_and_resolve_references()
    count = examples or config.data.mock_examples or 4 * config.train.batch_size
    if count < config.train.batch_size:
        raise errors.InputError(
            f"--examples is {count}, but a batch has {config.train.batch_size} images"
        )
    config.data.mock_examples = count
    return config


def _teacher(plan: Job, folder: pathlib.Path, setting: job.Setting) -> FrozenNetwork | None:
    """The job's teachers with random weights, as one."""
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


def _compiled(run: Run) -> Step:
    program, training = run.program, run.recipe.training
    teacher = None
    if run.teacher_network:
        teacher = _embeddings(run) if run.teacher_is_cached else run.teacher.folded
    variables = run.teacher.variables if run.teacher_network else None
    state = program.create(training.seed, variables)
    calls = loop.dispatches(run.recipe, run.dataset, run.mesh, program.length, start=0)
    count, batch = next(calls)
    calls.close()
    step = program.train(program.late_from, count)  # as most steps of the run
    lowered = step.lower(state, teacher, batch)
    compiled = compiling.compiled_program(step, state, teacher, batch)
    about = {
        "student": training.network.model,
        "objectives": " + ".join(choice.name for choice in training.objectives),
        "batch": training.batch_size,
        "image": list(run.dataset.image_shape),
        "teacher": _about_teacher(run),
        "device": f"{run.mesh.size} {run.mesh.devices.flat[0].device_kind}",
    }
    return Step(lowered, compiled, state, teacher, batch, count, about)


def _about_teacher(run: Run) -> str:
    if not run.teacher_network:
        return ""
    models = " and ".join(origin["model"] for origin in run.teacher.origins)
    return f"{models}, {'remembered' if run.teacher_is_cached else 'running'}"


def _embeddings(run: Run) -> dict[str, tuple[Any, ...]]:
    """What a cached teacher gives to steps, random: nothing is computed for it."""
    dataset: data.Dataset = run.dataset
    rows = len(dataset.train) * run.recipe.training.augment.views
    split = parallel.split(run.mesh)
    tables, heads = [], []
    for member, variables in ensemble.members(run.teacher.network, run.teacher.variables):
        shapes = networks.summarize(member, dataset.image_shape).outputs
        width = jax.eval_shape(step_outputs.cached_row, shapes).shape[-1]
        dtype = member.dtype if shapes.head else jnp.float32
        shape = (-(-rows // run.mesh.size) * run.mesh.size, width)
        tables.append(jax.device_put(jax.random.normal(jax.random.key(2), shape, dtype), split))
        head = networks.head(member, variables, dataset.image_shape) if shapes.head else ()
        heads.append(head)
    return {"embedding": tuple(tables), "head": tuple(heads)}
