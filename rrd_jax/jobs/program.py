"""Compiled functions of a run: the pure steps on a mesh, with the shardings of their arrays."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax

from rrd_jax import networks, optim, parallel
from rrd_jax.cpu import compiling
from rrd_jax.teacher import ensemble, row_format, step_outputs
from rrd_jax.training import stage, state, step
from rrd_jax.training.recipe import Recipe

# Pixels per call, which take about a second on an accelerator.
_PIXELS = 2**26


class Program(NamedTuple):
    """The functions of a run, compiled on first use.

    Attributes:
      create: (seed, teacher_variables, weights) -> the state before the first step. `weights` are
        optional, see `state.create`.
      train_step: (state, teacher, batch) -> (state, logged), see `step.train_step`; with a Split
        instead of a batch, see `step.resident_step`. The state is donated.
      train_steps: `length` steps in one call, see `step.repeated`; None if `length` is 1.
      length: steps per call.
      abstract: shapes of the state, with shardings.
      multiply_adds: multiply-adds of the networks per image and step.
      late: (train_step, train_steps) with oneDNN, for steps from `late_from` on; None without
        such a switch.
      late_from: the first step of `late`.
    """

    create: Callable[..., state.TrainState]
    train_step: Callable
    train_steps: Callable | None
    length: int
    abstract: state.TrainState
    multiply_adds: int
    late: tuple[Callable, Callable | None] | None = None
    late_from: int = 0

    def train(self, step: int, count: int) -> Callable:
        """Returns the function for `count` steps, 1 or `length`, that begin at a step.

        The choice depends only on the step, so that resumed runs are bit-identical.
        """
        single, repeated = self.late if self.is_late(step) else (self.train_step, self.train_steps)
        return repeated if count > 1 else single

    def is_late(self, step: int) -> bool:
        """Returns True if this step runs with oneDNN, after earlier steps without oneDNN."""
        return self.late is not None and step >= self.late_from


def build(
    recipe: Recipe,
    mesh: jax.sharding.Mesh,
    image_shape: tuple[int, int, int],
    steps_per_epoch: int,
    *,
    resident: bool,
    teacher: networks.Network | None = None,
    teacher_is_cached: bool = False,
    onednn_from: int | None = None,
) -> Program:
    """Builds the functions of a run.

    Args:
      recipe: the student, its loss and its training settings.
      mesh: the devices, which need not exist for ahead-of-time compilation.
      image_shape: (H, W, channels).
      steps_per_epoch: updates per epoch.
      resident: True if steps gather their batches from a split on the devices.
      teacher: the teacher's network; None if no objective reads a teacher.
      teacher_is_cached: True if steps read cached embeddings instead of the teacher's variables.
      onednn_from: the first step with oneDNN on a CPU; None to choose by the amount of work.
        Programs without oneDNN are stored in the compilation cache on disk, programs with oneDNN
        are compiled at each start.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    optimizer = _optimizer(recipe, image_shape)
    create = functools.partial(_create_state, recipe, optimizer, image_shape, teacher)
    abstract = _abstract_state(create, recipe, mesh, image_shape, teacher)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    teach = _make_teach(recipe, mesh, image_shape, teacher, teacher_is_cached)
    task = _task(recipe, mesh, optimizer, image_shape, steps_per_epoch, teach, unroll=on_cpu)
    train_step = functools.partial(step.train_step, task)
    if resident:
        train_step = functools.partial(step.resident_step, task, image_shape)
    train_step = parallel.with_mesh(mesh, train_step)
    length = _steps_per_call(recipe, image_shape, steps_per_epoch, on_cpu) if resident else 1
    calls = (train_step, step.repeated(train_step, length) if length > 1 else None)

    def compiled(*, onednn: bool) -> tuple[Callable, Callable | None]:
        return tuple(
            call
            and compiling.jit_for_mesh(
                call,
                mesh=mesh,
                fast_cpu=recipe.training.fast_cpu,
                onednn=onednn,
                donate_argnums=0,
                out_shardings=(shardings, parallel.replicated(mesh)),
            )
            for call in calls
        )

    multiply_adds = _multiply_adds(recipe, image_shape, None if teacher_is_cached else teacher)
    if onednn_from is None:
        onednn_from = compiling.calls_without_onednn(recipe.training.batch_size * multiply_adds)
    first, late = compiled(onednn=not onednn_from), None
    if 0 < onednn_from < recipe.training.epochs * steps_per_epoch:
        late = compiled(onednn=True)
        late = late if isinstance(late[0], compiling.OnednnJit) else None
    # Optimized compilation of hundreds of small random draws takes longer than the draws.
    quick = {"xla_backend_optimization_level": 0} if on_cpu else None
    return Program(
        create=jax.jit(create, out_shardings=shardings, compiler_options=quick),
        train_step=first[0],
        train_steps=first[1],
        length=length,
        abstract=abstract,
        multiply_adds=multiply_adds,
        late=late,
        late_from=onednn_from,
    )


def abstract_state(
    recipe: Recipe,
    mesh: jax.sharding.Mesh,
    image_shape: tuple[int, int, int],
    teacher: networks.Network | None,
) -> state.TrainState:
    """Returns the shapes of a run's state, with shardings; see `build` for the arguments."""
    create = functools.partial(
        _create_state, recipe, _optimizer(recipe, image_shape), image_shape, teacher
    )
    return _abstract_state(create, recipe, mesh, image_shape, teacher)


def _multiply_adds(recipe, image_shape, teacher):
    """Counts multiply-adds per image and step; the backward pass costs twice the forward pass."""
    macs = 3 * networks.summarize(recipe.student, image_shape).macs
    return macs + (networks.summarize(teacher, image_shape).macs if teacher else 0)


def _optimizer(recipe, image_shape):
    choice = recipe.training.optimizer
    optimizer = choice.transformation(recipe.schedule)
    if path := stage.fixed_parameters(recipe, image_shape):
        optimizer = optim.all_but(optimizer, path)
    scales = recipe.training.rates(recipe.student, image_shape)
    return optimizer if scales is None else optim.scaled(optimizer, scales, "student")


def _create_state(recipe, optimizer, image_shape, teacher, seed, teacher_variables, weights=None):
    return state.create(
        jax.random.key(seed),
        recipe.student,
        recipe.objectives,
        optimizer,
        image_shape,
        teacher,
        teacher_variables,
        average=recipe.training.ema > 0,
        weights=weights,
    )


def _abstract_state(create, recipe, mesh, image_shape, teacher):
    def create_with_teacher():
        variables = networks.init(teacher, jax.random.key(0), image_shape) if teacher else None
        return create(0, variables)

    shapes = jax.eval_shape(create_with_teacher)
    shardings = parallel.state_shardings(mesh, shapes, fully=recipe.training.shard_parameters)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def _make_teach(recipe, mesh, image_shape, teacher, teacher_is_cached):
    if not teacher:
        return None
    if not teacher_is_cached:
        fully = recipe.training.shard_parameters
        return step_outputs.live(parallel.gathered(mesh, teacher, fully=fully))
    formats = [
        row_format.of_network(
            member,
            image_shape,
            recipe.training.teacher_cache.dtype,
            has_patches=recipe.reads_patches,
        )
        for member in ensemble.member_networks(teacher)
    ]
    return step_outputs.cached(teacher, recipe.training.augment.views, formats)


def _task(recipe, mesh, optimizer, image_shape, steps_per_epoch, teach, *, unroll):
    training = recipe.training
    sharded = parallel.gathered(mesh, recipe.student, fully=training.shard_parameters)
    student = networks.remat(recipe.student, training.remat, sharded)
    if frozen := training.frozen(recipe.student, image_shape):
        student = networks.freeze(student, frozen)
    return step.Task(
        student=student,
        terms=recipe.terms,
        optimizer=optimizer,
        augment=training.augment,
        steps_per_epoch=steps_per_epoch,
        teach=teach,
        mix=training.mix,
        accumulate=training.accumulate,
        # A convolution in a loop is a hundred times slower on XLA's CPU backend.
        unroll=unroll,
        ema=training.ema,
        gather=functools.partial(parallel.gather, mesh, fully=training.shard_parameters),
    )


def _steps_per_call(recipe, image_shape, steps_per_epoch, on_cpu):
    """Returns the number of steps per call, which splits an epoch into about equal parts.

    Several steps per call amortize its overhead: a call costs an accelerator as much as a small
    step.
    """
    length = recipe.training.steps_per_dispatch
    if not length:
        pixels = recipe.training.batch_size * image_shape[0] * image_shape[1]
        # Loops are slow on a CPU, see `unroll`.
        length = 1 if on_cpu else max(1, _PIXELS // pixels)
    return steps_per_epoch // -(-steps_per_epoch // length)
