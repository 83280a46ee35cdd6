"""The compiled functions of a run: the pure steps on a mesh, and where their arrays live."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from rrd_jax import networks, optim, parallel, state, steps
from rrd_jax.data import augment
from rrd_jax.objectives import Objective, classifier

# A second's or so on one accelerator, between two looks at whether to stop.
_PIXELS = 2**26


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that is chosen about a run, as numbers and functions; see configs/common.py.

    Attributes:
      label: what the console calls the run.
      model: the student's name, kept in checkpoints.
      student: the student's network.
      objectives: by name.
      weights: their factors in the total loss.
      warmup: epochs over which these grow to that, by name; 0 for none.
      schedule: learning rate by step.
      optimizer: schedule -> what moves the parameters.
      stays: what of the student the optimizer leaves as it is: "", "classifier" or "student".
      remat: what a step computes twice of the student, as `networks.remat` has it.
      augment: what the step does to training images.
      mix: how it mixes them, or None.
      normalize: what evaluation does to test images.
      seed: from which the whole run follows.
      epochs: passes over the training split.
      batch_size: images a step, over all devices.
      accumulate: parts that a step's batch is walked in.
      ema: decay of the student's average, in [0, 1); 0 for none.
      shard_parameters: whether devices share parameters and optimizer state.
      eval_batch_size: images an evaluation step.
      steps_per_dispatch: the most steps that one call makes; 0 for what suits the devices.
      log_every: steps between two looks at the losses.
      save_every: steps between two checkpoints inside an epoch; 0 for none.
      teacher_cache: whether the teacher is remembered: "on", "off", or "auto" for where it pays.
    """

    label: str
    model: str
    student: Any
    objectives: dict[str, Objective]
    weights: dict[str, float]
    warmup: dict[str, int]
    schedule: optax.Schedule
    optimizer: Callable[[optax.Schedule], optax.GradientTransformation]
    augment: augment.Augment
    mix: steps.Mix | None
    normalize: Callable
    seed: int
    epochs: int
    batch_size: int
    accumulate: int
    ema: float
    shard_parameters: bool
    eval_batch_size: int
    steps_per_dispatch: int
    log_every: int
    save_every: int
    teacher_cache: str
    stays: str = ""
    remat: str = "none"


class Program(NamedTuple):
    """Compiled on first use.

    Attributes:
      create: (seed, teacher_variables) -> the state before the first step.
      train_step: as `steps.make_train_step`, or `steps.from_resident` of it; the state is donated.
      train_steps: `steps.repeated` of it, `length` times; None where that is 1.
      length: steps that one call should make.
      abstract: the state as shapes, with shardings.
    """

    create: Callable[[int, Any], state.TrainState]
    train_step: Callable
    train_steps: Callable | None
    length: int
    abstract: state.TrainState


def before(recipe: Recipe, name: str) -> Recipe:
    """The stage before distillation of one of a recipe's objectives, as a run of its own.

    What that objective keeps frozen is what its stage trains: the two change places.
    """
    objective = recipe.objectives[name]
    stage = objective.stage

    def turned(own):
        return own._replace(params=own.frozen, frozen=own.params)

    def init(key, student, teacher):
        return turned(objective.init(key, student, teacher))

    def loss(own, student, teacher, batch):
        return stage.loss(turned(own), student, teacher, batch)

    rate = recipe.schedule(0) if stage.learning_rate is None else stage.learning_rate
    return dataclasses.replace(
        recipe,
        label=f"{name}, stage before distillation",
        objectives={name: Objective(init, loss, taps=objective.taps)},
        weights={name: 1.0},
        warmup={},
        schedule=optax.constant_schedule(rate),
        stays="classifier" if stage.student else "student",
        epochs=stage.epochs,
        ema=0.0,
        teacher_cache="off",
    )


def after(
    start: state.TrainState, ended: state.TrainState, name: str, recipe: Recipe
) -> state.TrainState:
    """The state before the first step, with what the stage of objective `name` has trained."""
    start = start.replace(frozen=start.frozen | {name: ended.params["objectives"][name]})
    if not recipe.objectives[name].stage.student:
        return start
    student, stats = ended.params["student"], ended.batch_stats
    average = {"params": student, "batch_stats": stats} if start.ema else ()
    return start.replace(params=start.params | {"student": student}, batch_stats=stats, ema=average)


def build(
    recipe: Recipe,
    mesh: jax.sharding.Mesh,
    image_shape: tuple[int, int, int],
    steps_per_epoch: int,
    *,
    resident: bool,
    teacher: Any = None,
    recalls: bool = False,
    runs: int = 1,
) -> Program:
    """The functions of a run.

    Args:
      recipe: what to do.
      mesh: the devices; for ahead-of-time compilation they need not exist.
      image_shape: (H, W, channels).
      steps_per_epoch: updates an epoch.
      resident: whether a step takes its batch out of a split that lies on the devices.
      teacher: a network of `networks.create`; None where no objective reads one.
      recalls: whether the step is given what the teacher remembers, in place of its variables.
      runs: how many make their steps at once, as in `steps.together`; 1 for one on its own.
    """
    optimizer = recipe.optimizer(recipe.schedule)
    if recipe.stays:
        head = networks.summarize(recipe.student, image_shape).classifier
        stays = ("student", head) if recipe.stays == "classifier" else (recipe.stays,)
        optimizer = optim.all_but(optimizer, stays)

    def create(seed, teacher_variables):
        return state.create(
            jax.random.key(seed),
            recipe.student,
            recipe.objectives,
            optimizer,
            image_shape,
            teacher,
            teacher_variables,
            average=recipe.ema > 0,
        )

    def create_teacher():
        return networks.init(teacher, jax.random.key(0), image_shape) if teacher else None

    abstract = jax.eval_shape(lambda: create(0, create_teacher()))
    shardings = parallel.state_shardings(mesh, abstract, parameters=recipe.shard_parameters)
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    # Hundreds of small random draws: compiling them well takes longer than drawing them.
    quick = {"xla_backend_optimization_level": 0} if on_cpu else None
    teach = None
    if teacher:
        views = recipe.augment.views
        teach = steps.recalling(teacher, views) if recalls else steps.running(teacher)
    train_step = steps.make_train_step(
        networks.remat(recipe.student, recipe.remat),
        recipe.objectives,
        recipe.weights,
        optimizer,
        recipe.augment,
        steps_per_epoch,
        teach,
        recipe.mix,
        warmup=recipe.warmup,
        accumulate=recipe.accumulate,
        # A convolution in a loop is a hundred times slower on XLA's CPU backend.
        unroll=on_cpu,
        ema=recipe.ema,
    )
    if resident:
        train_step = steps.from_resident(train_step, steps_per_epoch, image_shape)
    # A call costs an accelerator as much as a small step. On a CPU loops are slow, as above.
    length = recipe.steps_per_dispatch
    if not length:
        pixels = recipe.batch_size * image_shape[0] * image_shape[1]
        length = 1 if on_cpu else max(1, _PIXELS // pixels)
    length = steps_per_epoch // -(-steps_per_epoch // length) if resident else 1

    def compiled(train):
        if runs > 1:
            train = steps.together(train)
        left = (shardings,) * runs if runs > 1 else shardings
        return jax.jit(train, donate_argnums=0, out_shardings=(left, parallel.replicated(mesh)))

    return Program(
        create=jax.jit(create, out_shardings=shardings, compiler_options=quick),
        train_step=compiled(train_step),
        train_steps=compiled(steps.repeated(train_step, length)) if length > 1 else None,
        length=length,
        abstract=jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            abstract,
            shardings,
        ),
    )


def build_predict(
    network: Any,
    normalize: Callable,
    mesh: jax.sharding.Mesh,
    objectives: dict[str, Objective] | None = None,
) -> Callable:
    """`steps.make_predict`, compiled; every process gets the whole batch's figures.

    Args:
      network: of `networks.create`.
      normalize: uint8 images to what the network sees.
      mesh: the devices.
      objectives: by name, one of which may classify in the network's place.
    """
    name = classifier(objectives or {})
    classify = objectives[name].predict if name else None
    predict = steps.make_predict(network, normalize, classify)
    return jax.jit(predict, out_shardings=parallel.replicated(mesh))
