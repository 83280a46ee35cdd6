"""A config as numbers and functions, of the student, of its teachers, and of either alone."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from rrd_jax import errors, networks, objectives, optim, program
from rrd_jax.data import augment


def teachers(config: ml_collections.ConfigDict) -> list[ml_collections.ConfigDict]:
    """The part of each teacher in the config; none where there is no teacher."""
    listed = config.teacher
    if isinstance(listed, ml_collections.ConfigDict):
        listed = [listed]
    return [chosen for chosen in listed if chosen.model]


def shares(config: ml_collections.ConfigDict) -> tuple[float, ...]:
    """The weights of several teachers, adding up to 1."""
    weights = [chosen.weight for chosen in teachers(config)]
    errors.check_positive(**{f"teacher[{i}].weight": weight for i, weight in enumerate(weights)})
    return tuple(weight / sum(weights) for weight in weights)


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
    config: ml_collections.ConfigDict,
    model: str,
    num_classes: int,
    platform: str | None = None,
    dtype: str = "",
) -> Any:
    """A network of `networks.create`; platform as in `from_config`, dtype "" for the config's."""
    platform = platform or jax.default_backend()
    known = {
        "auto": jnp.float32 if platform == "cpu" else jnp.bfloat16,
        "float32": jnp.float32,
        "bfloat16": jnp.bfloat16,
    }
    chosen = errors.lookup("dtype", dtype or config.dtype, known)
    return networks.create(model, num_classes, dtype=chosen, space_to_depth=config.space_to_depth)


def from_config(
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
            terms[name] = objectives.averaged(name, terms[name], shares(config))
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
    student = create_network(config, config.student.model, num_classes, platform)
    networks.remat(student, config.train.remat)  # or an error
    _check_together(terms, config.train.ema)
    return program.Recipe(
        label=label,
        model=config.student.model,
        student=student,
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
        normalize=normalize(config),
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
        teacher_cache=_cache(config),
        remat=config.train.remat,
    )


def _cache(config: ml_collections.ConfigDict) -> str:
    """What several teachers agree on."""
    known = dict.fromkeys(("auto", "on", "off"))
    found = {chosen.cache for chosen in teachers(config)} or {"off"}
    for name in found:
        errors.lookup("teacher.cache", name, known)
    if len(found) > 1:
        raise errors.InputError(
            f"the teachers' caches are {' and '.join(sorted(found))}; they must be the same"
        )
    return found.pop()


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


def normalize(config: ml_collections.ConfigDict) -> Any:
    """What evaluation does to images, by the config's mean and deviation."""
    return augment.make_normalize(config.data.mean, config.data.std)
