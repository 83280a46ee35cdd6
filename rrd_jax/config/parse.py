"""A ConfigDict to a Job: here alone are fields read, once `checks` has seen all of them."""

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rrd_jax import errors, imports, networks, objectives, optim, parallel
from rrd_jax.config import checks, effects, methods, naming, sizes, unlabelled
from rrd_jax.config.fields import BY_PATH, defaults
from rrd_jax.config.options import Options
from rrd_jax.data.augment import mixing, pipeline
from rrd_jax.data.augment.views import Views
from rrd_jax.data.source import Source
from rrd_jax.objectives.rrd import MEMORIES
from rrd_jax.teacher import cache as teacher_cache
from rrd_jax.training import recipe
from rrd_jax.training.choices import (
    CacheChoice,
    NetworkChoice,
    ObjectiveChoice,
    OptimizerChoice,
    ProofChoice,
    StartChoice,
    TeachingChoice,
)

# Fields that a second start may change, because the numbers do not depend on them.
_FREE = (
    "name",
    "compilation_cache",
    "data.dir",
    "data.manual_dir",
    "data.feed",
    "data.workers",
    "data.decoder",
    "data.keep",
    "data.keep_share",
    "train.log_every",
    "train.steps_per_dispatch",
    "train.save_every",
    "eval.proof",
    "eval.proof_images",
    "eval.every",
    "eval.knn",
    "from_scratch",
    "eval.labelled",
    "eval.labelled_per_class",
    "teacher.checkpoint",
    "teacher.cache_place",
    "shard_parameters",
)
# Fields of data that a teacher has too, where None stands for those of the student.
_OF_IMAGES = ("share", "per_class", "imbalance", "label_noise", "use_labels")
# Fields of a teacher that nobody has who learns alone.
_OF_TEACHING = (
    *("mean", "std", "image_size", "interpolation"),
    *("probe", "probe_l2", "class_vectors", "class_vectors_scale"),
)


class _Setting(NamedTuple):
    """What a config does not say: the platform of the devices, and what was made in Python."""

    platform: str
    made: recipe.Made


def parse(
    config: ConfigDict,
    *,
    platform: str | None = None,
    made: recipe.Made | None = None,
    asked: Collection[str] | None = None,
) -> recipe.Job:
    """The job that a config describes; notes which fields have no effect in it.

    Args:
      config: fields as in `config.get_config`; it is not changed.
      platform: of the devices, such as cpu or tpu; None for those of this process.
      made: what the config's names stand for, where they are neither ours nor import paths.
      asked: the paths of the fields that a user set; None for those that are not at their default.

    Raises:
      InputError: a value out of range, an unknown name, sizes beyond the machine's memory, or
        fields that do not go together.
    """
    setting = _Setting(platform or jax.default_backend(), made or recipe.Made())
    config = naming.named(config)
    checks.check(config, setting.made.objectives)
    config = _with_our_names(with_implied(config, asked or ()), setting.made.networks)
    config = unlabelled.adapted(config, asked or (), setting.made.variables)
    sizes.check(config, parallel.machine_bytes())
    fields = _teacher_fields(config)
    weights = _weights(fields)
    cache = _cache(fields)
    teachers = tuple(_teacher(config, teacher, i, setting) for i, teacher in enumerate(fields))
    label = f"distilled, {config.method}" if teachers else "student"
    student = _part(config, label, setting, weights, cache)
    trained = [student, *(teacher.part for teacher in teachers if not teacher.checkpoint)]
    for part in trained:
        _check_rates(part)
    _check_cache(student)
    effects.note(config, asked)
    beside = dict(_beside(config, student, setting, weights, cache))
    return recipe.Job(student, beside, teachers, _FREE, _default_fields(config))


def _beside(
    config: ConfigDict,
    student: recipe.Part,
    setting: _Setting,
    weights: tuple[float, ...],
    cache: CacheChoice,
) -> Iterator[tuple[str, recipe.Part]]:
    """The runs that a student is compared with, and the names of their folders.

    Raises:
      InputError: there would be nothing to compare.
    """
    if config.baseline:
        if not weights:
            raise errors.InputError(
                "config.baseline compares with a teacher; set config.teacher.model"
            )
        # A teacher learns from plain labels: smoothed ones make it a worse teacher (1906.02629).
        yield "alone", _part(_alone(config, smoothing=True), "student alone", setting)
    if config.from_scratch:
        if not student.training.start:
            raise errors.InputError(
                "config.from_scratch compares with weights that the student starts from; name them"
                " with student.checkpoint"
            )
        random = setting._replace(made=dataclasses.replace(setting.made, starts={}))
        label = f"{student.training.label} from random weights"
        yield "scratch", _part(_from_scratch(config), label, random, weights, cache)


def with_implied(config: ConfigDict, asked: Collection[str]) -> ConfigDict:
    """A config with what follows from the fields that were asked for.

    Teachers are fine-tuned whose checkpoint and epochs were both asked for: launch files have
    epochs for teachers that are trained from the start, so that these alone say nothing. A preset
    of rrd that was asked for has its paper's memory, unless a launch file or a flag says how large.

    Args:
      config: it is not changed.
      asked: the paths of the fields that a user set.
    """
    labels = [label for label, _ in checks.teachers(config)]
    tuned = [f"{at}.checkpoint" in asked and f"{at}.epochs" in asked for at in labels]
    rows = _implied_rows(config, asked)
    if not any(tuned) and not rows:
        return config
    config = config.copy_and_resolve_references()
    if rows:
        config.objectives.rrd.queue_size = rows
    with config.unlocked(), config.ignore_type():
        for (_, fields), is_tuned in zip(checks.teachers(config), tuned, strict=True):
            fields.fine_tune = fields.fine_tune or is_tuned
    return config


def _implied_rows(config: ConfigDict, asked: Collection[str]) -> int:
    """The memory of a preset of rrd that was asked for; 0 where it is chosen, or as it is."""
    fields = config.objectives.get("rrd")
    if "objectives.rrd.preset" not in asked or "objectives.rrd.queue_size" in asked:
        return 0
    is_usual = fields.queue_size == methods.objectives()["rrd"]["queue_size"]
    return MEMORIES.get(fields.preset, 0) if is_usual else 0


def _with_our_names(config: ConfigDict, made: Collection[str]) -> ConfigDict:
    """A config whose networks have the names of MODELS, as then runs, files and tables have them.

    Args:
      config: it is not changed.
      made: names of networks that were made in Python.
    """

    def others(config):
        every = [config.student, *(fields for _, fields in checks.teachers(config))]
        return [f for f in every if f.model not in made and f.model in networks.ALIASES]

    if not others(config):  # copies of configs take long
        return config
    config = config.copy_and_resolve_references()
    for fields in others(config):
        fields.model = networks.canonical(fields.model)
    return config


def training_of(fields: Mapping[str, Any], made: recipe.Made | None = None) -> recipe.Training:
    """How the network of a run was trained, from the fields that its folder keeps.

    Args:
      fields: a config as JSON, of this version or an earlier one.
      made: as `parse` has it.

    Raises:
      InputError: a name is no longer known.
    """
    config = _restored(fields)
    setting = _Setting(jax.default_backend(), made or recipe.Made())
    return _training(config, config.method, setting, weights=(), cache=CacheChoice())


def source_of(fields: ConfigDict | Mapping[str, Any]) -> Source:
    """The images of a config, or of a run, from the fields that its folder keeps."""
    return _source(fields if isinstance(fields, ConfigDict) else _restored(fields))


def without_effect(fields: Mapping[str, Any]) -> frozenset[str]:
    """The paths of fields that no number depends on, of those that a run's folder keeps."""
    return frozenset(path for path, _ in effects.without_effect(_restored(fields)))


def _restored(fields: Mapping[str, Any]) -> ConfigDict:
    """A config from its JSON; fields that an earlier version did not have get their defaults."""
    config, given = defaults(), dict(fields)
    with config.unlocked(), config.ignore_type():
        if isinstance(given.get("teacher"), list):  # several, which a tree cannot be updated with
            config.teacher = [ConfigDict(teacher) for teacher in given.pop("teacher")]
        config.update(ConfigDict(given))
    return config


def _default_fields(config: ConfigDict) -> dict[str, Any]:
    """Every field with its default, as JSON: what fields are that an older workdir lacks."""
    everything = defaults()
    brought = {
        name: methods.fields(objectives.record(name, given.factory), given.factory)
        for name, given in config.objectives.items()
        if given.get("factory")
    }
    everything.objectives = ConfigDict(methods.objectives() | brought)
    return _json(everything)


def _json(config: ConfigDict) -> dict[str, Any]:
    return json.loads(config.to_json_best_effort(sort_keys=True))


def _part(
    config: ConfigDict,
    label: str,
    setting: _Setting,
    weights: tuple[float, ...] = (),
    cache: CacheChoice | None = None,
) -> recipe.Part:
    """A run of a config, of whose teachers only the weights and the use of a cache matter."""
    training = _training(config, label, setting, weights, cache or CacheChoice())
    networks.remat(training.network.create(num_classes=2), config.train.remat)
    _check_objectives(training, has_teacher=bool(weights))
    return recipe.Part(training, _source(config), _json(config))


def _training(
    config: ConfigDict,
    label: str,
    setting: _Setting,
    weights: tuple[float, ...],
    cache: CacheChoice,
) -> recipe.Training:
    data, train = config.data, config.train
    return recipe.Training(
        label=label,
        network=_network(
            config,
            config.student,
            setting,
            prefix="student.options.",
            drop_path=config.student.drop_path,
        ),
        objectives=_objectives(config, setting),
        teacher_weights=weights if len(weights) > 1 else (),
        optimizer=_optimizer(config, setting),
        augment=_augment(data),
        mix=mixing.make_mix(
            data.mix,
            data.mix_alpha,
            cutmix_alpha=data.cutmix_alpha,
            switch=data.mix_switch,
            probability=data.mix_probability,
        ),
        mean=tuple(data.mean),
        std=tuple(data.std),
        seed=config.seed,
        epochs=train.epochs,
        batch_size=train.batch_size,
        accumulate=train.accumulate,
        ema=train.ema,
        remat=train.remat,
        shard_parameters=config.shard_parameters,
        eval_batch_size=train.eval_batch_size,
        steps_per_dispatch=train.steps_per_dispatch,
        log_every=train.log_every,
        save_every=train.save_every,
        teacher_cache=cache,
        start=_start(config, setting),
        freeze=config.student.freeze,
        backbone_rate=config.student.backbone_rate,
        fast_cpu=config.fast_cpu,
        proof=ProofChoice(
            on=config.eval.proof,
            images=config.eval.proof_images,
            every=config.eval.every,
            knn=config.eval.knn,
            labelled=config.eval.labelled,
            per_class=config.eval.labelled_per_class,
        ),
    )


def _augment(data: ConfigDict) -> pipeline.Augment:
    """What the step does to training images."""
    names = (name for name in pipeline.Changes._fields if name != "others")
    changes = pipeline.Changes(
        **{name: data[name] for name in names}, others=tuple(data.views.others)
    )
    return pipeline.make_augment(
        data.augment,
        mean=data.mean,
        std=data.std,
        pad=data.pad,
        flip=data.flip,
        area=data.crop_area,
        changes=changes,
        views=Views(data.views.count, data.views.seed),
        teacher=data.views.teacher,
    )


def _start(config: ConfigDict, setting: _Setting) -> StartChoice:
    """What the network of a run begins with."""
    fields = config.student
    variables, meta = None, {}
    if not fields.checkpoint:
        variables, meta = setting.made.starts.get(fields.model, (None, {}))
    return StartChoice(fields.checkpoint, fields.head, variables, meta)


def _source(config: ConfigDict) -> Source:
    data = config.data
    return Source(
        name=data.name,
        dir=data.dir,
        manual_dir=data.manual_dir,
        train_split=data.train_split,
        test_split=data.test_split,
        image_size=data.image_size,
        resize=data.resize,
        crop_area=data.crop_area,
        views=data.views.count,
        views_seed=data.views.seed,
        augment=data.augment,
        feed=data.feed,
        workers=data.workers,
        decoder=data.decoder,
        keep=data.keep,
        keep_share=data.keep_share,
        mock_examples=data.mock_examples,
        options=dict(data.options),
        class_names=data.class_names,
        share=data.share,
        per_class=data.per_class,
        imbalance=data.imbalance,
        label_noise=data.label_noise,
        noise=data.noise,
        noise_seed=data.noise_seed,
        use_labels=data.use_labels,
        max_images=data.max_images,
    )


def _network(
    config: ConfigDict,
    fields: ConfigDict,
    setting: _Setting,
    *,
    prefix: str,
    dtype: str = "",
    drop_path: float = 0.0,
) -> NetworkChoice:
    """The network of fields with `model` and `options`; dtype "" for the config's."""
    known = {
        "auto": jnp.float32 if setting.platform == "cpu" else jnp.bfloat16,
        "float32": jnp.float32,
        "bfloat16": jnp.bfloat16,
    }
    dtype = errors.lookup("dtype", dtype or config.dtype, known)
    options = {name: value for name, value in fields.options.items() if value is not None}
    network = setting.made.networks.get(fields.model)
    choice = NetworkChoice(
        fields.model, dtype, config.space_to_depth, options, prefix, network, drop_path
    )
    choice.create(num_classes=2)  # raises for an unknown name
    return choice


def _objectives(config: ConfigDict, setting: _Setting) -> tuple[ObjectiveChoice, ...]:
    choices: dict[str, ObjectiveChoice] = {}
    for given_name, given in config.objectives.items():
        options = dict(given)
        weight, warmup = options.pop("weight", 1.0), options.pop("warmup", 0)
        name, factory = _origin(given_name, options.pop("factory", ""))
        if name in choices:
            raise errors.InputError(
                f"config.objectives names two objectives '{name}'; rename one of them and"
                " keep its import path in the field factory"
            )
        objective = setting.made.objectives.get(name)
        choices[name] = ObjectiveChoice(name, weight, warmup, options, factory, objective)
    if not choices:
        raise errors.InputError("config.objectives is empty; a student needs at least 'ce'")
    if not any(choice.weight for choice in choices.values()):
        raise errors.InputError(
            f"the weights of {', '.join(choices)} in config.objectives are all 0: nothing is learnt"
        )
    return tuple(choices.values())


def _origin(name: str, factory: str) -> tuple[str, str]:
    """Name and import path of an objective, which may be named by its path alone."""
    if imports.is_path(name) and not factory:
        return objectives.record(name).name, name
    return name, factory


def _optimizer(config: ConfigDict, setting: _Setting) -> OptimizerChoice:
    fields = config.optimizer
    choice = OptimizerChoice(
        learning_rate=fields.learning_rate,
        milestones=tuple(fields.milestones),
        decay=fields.decay,
        momentum=fields.momentum,
        weight_decay=fields.weight_decay,
        clip_norm=fields.clip_norm,
        name=fields.name,
        options=dict(fields.options),
        nesterov=fields.nesterov,
        decay_norm_and_bias=fields.decay_norm_and_bias,
        layer_decay=fields.layer_decay,
        schedule_name=fields.schedule,
        schedule_options=dict(fields.schedule_options),
        warmup_epochs=fields.warmup_epochs,
        warmup_start=fields.warmup_start,
        final_learning_rate=fields.final_learning_rate,
        transform=setting.made.transform,
    )
    _check_momentum(fields)
    # These raise for values out of range, and unknown names.
    optim.check_decay(choice.layer_decay)
    choice.transformation(choice.schedule(config.train.epochs, steps_per_epoch=1))
    return choice


def _check_momentum(fields: ConfigDict) -> None:
    """Raises an InputError where the momentum of sgd is chosen for another optimizer."""
    usual = defaults().optimizer
    for name in ("momentum", "nesterov"):
        if fields.name != "sgd" and fields[name] != usual[name]:
            raise errors.InputError(
                f"optimizer.{name} is {fields[name]}, but it is of sgd alone; what '{fields.name}'"
                " has like it is set in optimizer.options"
            )


def _check_rates(part: recipe.Part) -> None:
    """Raises an InputError for layer decay, frozen parts and a rate that a network cannot have."""
    training, size = part.training, part.source.image_size
    shape = (size, size, len(training.mean))
    training.rates(training.network.create(num_classes=2), shape)


def _check_cache(part: recipe.Part) -> None:
    """Raises an InputError for a teacher's cache that is on, but cannot be with any data set."""
    training = part.training
    teacher_cache.check(training, training.create_objectives(examples=training.batch_size))


def _check_objectives(training: recipe.Training, *, has_teacher: bool) -> None:
    """Raises an InputError for objectives with bad options, or that do not go together."""
    terms = training.create_objectives(examples=training.batch_size)
    recipe.check_combination(terms, training.ema, has_teacher=has_teacher)


def _teacher(
    config: ConfigDict, fields: ConfigDict, i: int, setting: _Setting
) -> recipe.TeacherChoice:
    """Teacher `i` of a config, counted from 0."""
    at = "teacher" if isinstance(config.teacher, ConfigDict) else f"teacher[{i}]"
    network = _network(config, fields, setting, prefix=f"{at}.options.", dtype=fields.dtype)
    label = _label(i)
    if fields.drop_path and _is_trained(fields):
        dataclasses.replace(network, drop_path=fields.drop_path).create(num_classes=2)  # may raise
    part = _part(_teacher_config(config, fields), label, setting)
    checkpoint, variables = fields.checkpoint, setting.made.variables.get(fields.model)
    weights = variables if fields.fine_tune and not checkpoint else None
    start = dataclasses.replace(part.training.start, section=at, variables=weights, meta={})
    if fields.fine_tune:  # they are where its training starts
        checkpoint, variables = "", None
    sees = bool(checkpoint) or variables is not None
    own = [name for name in ("mean", "std", "image_size") if fields[name] is not None]
    if own and not sees:
        raise errors.InputError(
            f"{at}.{own[0]} is {fields[own[0]]}, but the teacher is trained here, on the student's"
            f" images: name its weights with {at}.checkpoint, or set data.{own[0]}"
        )
    part = dataclasses.replace(part, training=dataclasses.replace(part.training, start=start))
    return recipe.TeacherChoice(
        network,
        checkpoint,
        part,
        variables,
        follows=fields.epochs is None,
        teaching=_teaching(fields, at, label, sees=sees),
    )


def _teaching(fields: ConfigDict, at: str, label: str, *, sees: bool) -> TeachingChoice:
    """How a teacher sees images, and where its logits come from.

    Args:
      fields: the teacher's.
      at: their section.
      label: what the console calls it.
      sees: whether it can see images in its own way; one that is trained here sees the student's.
    """
    mean, std = (tuple(v) if v and sees else None for v in (fields.mean, fields.std))
    return TeachingChoice(
        at,
        label,
        mean,
        std,
        fields.image_size if sees else None,
        "" if fields.interpolation == "auto" else fields.interpolation,
        fields.probe,
        fields.probe_l2,
        fields.class_vectors,
        fields.class_vectors_scale,
    )


def teaching_of(fields: Mapping[str, Any], number: int) -> TeachingChoice:
    """How a teacher of a run sees images, and where its logits come from.

    Args:
      fields: the config that the run's folder keeps.
      number: of the teacher, among those that have a network, counted from 0.
    """
    fields = _teacher_fields(_restored(fields))[number]
    return _teaching(fields, "teacher", _label(number), sees=not _is_trained(fields))


def _label(number: int) -> str:
    """What the console calls a teacher, by its number from 0."""
    return f"teacher{number + 1}" if number else "teacher"


def _is_trained(fields: ConfigDict) -> bool:
    """Whether a teacher's fields ask for its training, from the start or from weights."""
    return fields.fine_tune or not fields.checkpoint


def _teacher_fields(config: ConfigDict) -> list[ConfigDict]:
    """The fields of each teacher; none where there is no teacher."""
    return [fields for _, fields in checks.teachers(config) if fields.model]


def _weights(teachers: list[ConfigDict]) -> tuple[float, ...]:
    """The weights of the teachers, adding up to 1."""
    weights = [fields.weight for fields in teachers]
    return tuple(weight / sum(weights) for weight in weights)


def _cache(teachers: list[ConfigDict]) -> CacheChoice:
    """What several teachers agree on."""
    if not teachers:
        return CacheChoice()
    names = {"use": "cache", "place": "cache_place", "dtype": "cache_dtype"}
    for name in names.values():
        values = sorted({fields[name] for fields in teachers})
        if len(values) > 1:
            raise errors.InputError(
                f"{name} of the teachers is {' and '.join(values)}; it must be the same"
            )
    return CacheChoice(**{at: teachers[0][name] for at, name in names.items()})


def _teacher_config(config: ConfigDict, fields: ConfigDict) -> ConfigDict:
    """The config that trains a teacher of `config`: the same program with cross-entropy only."""
    teacher = _alone(config)
    teacher.student.model, teacher.student.options = fields.model, fields.options
    teacher.student.checkpoint = fields.checkpoint if fields.fine_tune else ""
    for name in ("head", "freeze", "backbone_rate", "drop_path"):
        usual = BY_PATH[f"student.{name}"].default
        teacher.student[name] = fields[name] if _is_trained(fields) else usual
    teacher.seed, teacher.data.views.count = fields.seed, 0
    teacher.data.train_split = fields.train_split or config.data.train_split
    for name in _OF_IMAGES:
        if fields[name] is not None:  # 0 is a value
            teacher.data[name] = fields[name]
    teacher.train.epochs = fields.epochs or config.train.epochs
    teacher.optimizer.learning_rate = fields.learning_rate or config.optimizer.learning_rate
    return teacher


def _alone(config: ConfigDict, *, smoothing: bool = False) -> ConfigDict:
    """The config that trains `config`'s student without a teacher.

    Args:
      config: the student's.
      smoothing: whether labels are smoothed as the student's are.
    """
    ce = {"weight": 1.0}
    if smoothing and config.objectives.get("ce", {}).get("label_smoothing"):
        ce["label_smoothing"] = config.objectives.ce.label_smoothing
    alone = config.copy_and_resolve_references()
    with alone.unlocked(), alone.ignore_type():
        alone.objectives = {"ce": ce}
        if isinstance(alone.teacher, list):
            alone.teacher = alone.teacher[0].copy_and_resolve_references()
    alone.method = "ce"
    alone.teacher.model = alone.teacher.checkpoint = ""
    alone.teacher.options = Options()
    others = ("fine_tune", "head", "freeze", "backbone_rate", "drop_path")
    for name in (*others, *_OF_IMAGES, *_OF_TEACHING):
        alone.teacher[name] = BY_PATH[f"teacher.{name}"].default
    alone.baseline = alone.from_scratch = False
    return alone


def _from_scratch(config: ConfigDict) -> ConfigDict:
    """The config that trains `config`'s student from random weights, all of them alike."""
    scratch = config.copy_and_resolve_references()
    for name in ("checkpoint", "head", "freeze", "backbone_rate"):
        scratch.student[name] = BY_PATH[f"student.{name}"].default
    scratch.baseline = scratch.from_scratch = False
    return scratch
