"""Converts a ConfigDict to a Job. No other module reads the fields of a run."""

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rrd_jax import errors, imports, networks, objectives, optim, parallel
from rrd_jax.config import automatic, methods, naming, sizes, unlabelled, unused, validation
from rrd_jax.config.fields import FIELDS, legacy_defaults
from rrd_jax.data.augment.pipeline import Changes
from rrd_jax.data.augment.second_view import SecondView
from rrd_jax.data.source import Source, describe_small_crop
from rrd_jax.settings import Values, build, fields_of
from rrd_jax.settings.kinds import Auto
from rrd_jax.teacher import cache_plan as teacher_cache
from rrd_jax.terminal import console
from rrd_jax.training import recipe
from rrd_jax.training.choices import (
    AlignmentChoice,
    AugmentChoice,
    CacheChoice,
    MixChoice,
    NetworkChoice,
    ObjectiveChoice,
    OptimizerChoice,
    ReportChoice,
    RobustnessChoice,
    StartChoice,
    TeacherFields,
    TeachingChoice,
)
from rrd_jax.training.recipe import CustomObjects

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_NO_CACHE = CacheChoice(use="off")
# Fields of the teacher section that a run without a teacher keeps, as in version 0.2.0.
_TEACHER_FIELDS_OF_ALONE = (
    "dtype",
    "positions",
    "seed",
    "train_split",
    "epochs",
    "learning_rate",
    "cache",
    "cache_place",
    "cache_dtype",
    "weight",
)
# Fields of the student that only apply to weights from a checkpoint.
_CHECKPOINT_FIELDS = ("checkpoint", "head", "freeze", "backbone_rate")


class _Share(NamedTuple):
    """A teacher's weight among several teachers, and its objectives; no names for all of them."""

    weight: float
    objectives: tuple[str, ...]


class _Context(NamedTuple):
    """The platform, the Python objects and the section name for messages."""

    platform: str
    custom: CustomObjects
    section: str = "student"


@errors.field_errors()
def parse(
    config: ConfigDict,
    *,
    platform: str | None = None,
    custom: CustomObjects | None = None,
    explicit: Collection[str] | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> recipe.Job:
    """Returns the job that a config describes, and prints a note on unused fields.

    Args:
      config: fields as in `config.defaults`; not modified.
      platform: platform of the devices, such as cpu or tpu; None for that of this process.
      custom: Python objects, under the names that the config uses.
      explicit: paths of the fields that the user set; None for all fields that differ from their
        default.
      recorded: the config that the workdir records, see `workdir.recorded_fields`; its values
        replace "auto". None for a new workdir.

    Raises:
      FieldError: a value is out of range, a name is unknown, the sizes exceed the machine's memory,
        or fields contradict each other.
    """
    custom = custom or CustomObjects()
    context = _Context(platform or jax.default_backend(), custom)
    values = validation.validate(config, custom.objectives)
    changed = list(unused.iterate_changed(values)) if explicit is None else explicit
    automatic.resolve(values, recorded)
    naming.pin_repositories(values, recorded)
    naming.resolve(values, custom.networks)
    validation.check_conflicts(values)
    for path, value in implied(values, explicit or ()).items():
        values[path] = value
    unlabelled.adapt(values, explicit or (), custom.variables)
    sizes.check(values, parallel.machine_bytes())
    views = values.with_models()
    cache, shares = _cache(views), _shares(views)
    teachers = tuple(_teacher(view, i, context) for i, view in enumerate(views))
    label = f"distilled, {values['method']}" if teachers else values["label"] or "student"
    student = _part(values, label, context, shares, cache)
    unused.note(values, changed)
    _warn_of_small_crop(student.source)
    comparisons = dict(_comparisons(values, student, context, shares, cache))
    changeable = tuple(field.path for field in FIELDS.values() if field.changeable)
    return recipe.Job(student, comparisons, teachers, changeable, _default_fields(values))


def _warn_of_small_crop(source: Source) -> None:
    """Warns if test images show only a small part of the stored images."""
    resize = source.resize if source.crops_on_host else None
    if text := describe_small_crop(source.image_size, resize):
        console.warn(
            f"data.resize is {resize}, and data.image_size {source.image_size}: {text}; use"
            " data.resize=auto in a new --workdir"
        )


def _comparisons(
    values: Values,
    student: recipe.Part,
    context: _Context,
    shares: tuple[_Share, ...],
    cache: CacheChoice,
) -> Iterator[tuple[str, recipe.Part]]:
    """Yields the folder name and the run of each comparison with the student.

    Raises:
      InputError: a comparison is enabled, but the config has no teacher or checkpoint for it.
    """
    if values["baseline"]:
        if not shares:
            raise errors.InputError(
                "config.baseline is True, but there is no teacher to compare with; set"
                " config.teacher.model, or set config.baseline to False"
            )
        # Only the student is smoothed: label smoothing makes worse teachers (arXiv 1906.02629).
        smoothing = values["objectives"].get("ce", {}).get("label_smoothing")
        yield "alone", _part(_alone(values, smoothing), "student alone", context)
    if values["from_scratch"]:
        if not student.training.start:
            raise errors.InputError(
                "config.from_scratch is True, but the student starts from random weights already;"
                " set student.checkpoint, or set config.from_scratch to False"
            )
        random = context._replace(custom=dataclasses.replace(context.custom, starts={}))
        label = f"{student.training.label} from random weights"
        yield "scratch", _part(_from_scratch(values), label, random, shares, cache)


def implied(values: Values | ConfigDict, explicit: Collection[str]) -> dict[str, Any]:
    """Returns the values that follow from the fields that a user set, by path.

    A teacher is fine-tuned if the user set both its checkpoint and its epochs. Epochs alone are
    not enough, because config files set them for teachers that are trained from scratch.

    Args:
      values: the fields of a config.
      explicit: paths of the fields that the user set.
    """
    values = validation.read(values) if isinstance(values, ConfigDict) else values
    return {
        f"{label}.fine_tune": True
        for label in values.labels
        if f"{label}.checkpoint" in explicit and f"{label}.epochs" in explicit
    }


def training_of(fields: Mapping[str, Any], custom: CustomObjects | None = None) -> recipe.Training:
    """Returns the training settings of a network, from the config in the run folder.

    Args:
      fields: a config as JSON, written by this version or an earlier one.
      custom: Python objects, as for `parse`.

    Raises:
      InputError: the config contains a name that no longer exists.
    """
    values = _restored(fields)
    context = _Context(jax.default_backend(), custom or CustomObjects())
    return _training(values, build(Source, values), values["method"], context)


def source_of(
    fields: ConfigDict | Mapping[str, Any], recorded: Mapping[str, Any] | None = None
) -> Source:
    """Returns the data source of a config, or of the config in a run folder.

    Args:
      fields: a config for a start, or the config in a run folder.
      recorded: for a start, as for `parse`.
    """
    if not isinstance(fields, ConfigDict):
        return build(Source, _restored(fields))
    values = validation.read(fields)
    automatic.resolve(values, recorded)
    return build(Source, values)


def teaching_of(fields: Mapping[str, Any], number: int) -> TeachingChoice:
    """Returns the preprocessing and the classifier of a teacher of a run.

    Args:
      fields: the config in the run folder.
      number: index of the teacher among those with a network, from 0.
    """
    values = _restored(fields).with_models()[number]
    is_trained = build(TeacherFields, values).is_trained
    return _teaching(values, _label(number), "teacher", is_pretrained=not is_trained)


def unused_fields(fields: Mapping[str, Any]) -> frozenset[str]:
    """Returns the paths of the fields that have no effect, from the config in a run folder."""
    return frozenset(path for path, _ in unused.iterate_unused(_restored(fields)))


def _restored(fields: Mapping[str, Any]) -> Values:
    """Returns the values of a config's JSON; missing fields get the values of earlier versions."""
    tree = validation.read(legacy_defaults()).tree
    teachers = fields.get("teacher")
    merged = _merged(tree, fields)
    if isinstance(teachers, list):
        merged["teacher"] = [_merged(tree["teacher"], teacher) for teacher in teachers]
    values = validation.from_tree(merged)
    # Only configs that no run has resolved contain "auto".
    automatic.resolve(values, None)
    return values


def _merged(tree: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(tree)
    for name, value in fields.items():
        is_section = isinstance(value, Mapping) and isinstance(tree.get(name), Mapping)
        merged[name] = _merged(tree[name], value) if is_section else value
    return merged


def _default_fields(values: Values) -> dict[str, Any]:
    """Returns the value of every field as JSON, for fields missing from an older workdir."""
    config = legacy_defaults()
    custom = {
        name: methods.fields(objectives.record(name, options["factory"]), options["factory"])
        for name, options in values["objectives"].items()
        if options.get("factory")
    }
    config.objectives = ConfigDict(methods.objectives() | custom)
    return _json(config)


def _json(config: ConfigDict) -> dict[str, Any]:
    return json.loads(config.to_json_best_effort(sort_keys=True))


def _part(
    values: Values,
    label: str,
    context: _Context,
    shares: tuple[_Share, ...] = (),
    cache: CacheChoice = _NO_CACHE,
    *,
    is_trained: bool = True,
) -> recipe.Part:
    """Returns a run of a config, after checking its network and its objectives.

    Only the shares and the cache settings of the teachers matter here.
    """
    source = build(Source, values)
    training = _training(values, source, label, context, shares, cache)
    # An unknown network name raises here.
    network = training.network.create(num_classes=2)
    if is_trained:
        networks.remat(network, training.remat)
        training.rates(network, (source.image_size, source.image_size, len(training.mean)))
    terms = training.create_objectives(examples=training.batch_size)
    recipe.check_combination(training, terms, has_teacher=bool(shares))
    teacher_cache.check(training, terms)
    return recipe.Part(training, source, _json(ConfigDict(values.tree)))


def _training(
    values: Values,
    source: Source,
    label: str,
    context: _Context,
    shares: tuple[_Share, ...] = (),
    cache: CacheChoice = _NO_CACHE,
) -> recipe.Training:
    mean, std = tuple(values["data.mean"]), tuple(values["data.std"])
    augment = build(
        AugmentChoice, values, changes=build(Changes, values), second=build(SecondView, values)
    )
    several = shares if len(shares) > 1 else ()
    return build(
        recipe.Training,
        values,
        label=label,
        network=_network(values, context),
        objectives=_objectives(values, context),
        teacher_weights=tuple(share.weight for share in several),
        teacher_objectives=tuple(share.objectives for share in several),
        optimizer=_optimizer(values, context),
        augment=augment.create(source, mean, std),
        mix=build(MixChoice, values).create(),
        mean=mean,
        std=std,
        teacher_cache=cache,
        start=_start(values, context),
        alignment=build(AlignmentChoice, values),
        report=build(ReportChoice, values),
        robustness=build(RobustnessChoice, values),
    )


def _start(values: Values, context: _Context) -> StartChoice:
    """Returns the initial weights of a run's network."""
    variables, meta = None, {}
    if not values["student.checkpoint"]:
        variables, meta = context.custom.starts.get(values["student.model"], (None, {}))
    return build(StartChoice, values, variables=variables, meta=meta, section=context.section)


def _dtype(name: str, platform: str) -> jnp.dtype:
    return _DTYPES.get(name) or (jnp.float32 if platform == "cpu" else jnp.bfloat16)


def _network(values: Values, context: _Context) -> NetworkChoice:
    options = values["student.options"].items()
    model = values["student.model"]
    return build(
        NetworkChoice,
        values,
        model=model,
        dtype=_dtype(values["dtype"], context.platform),
        options={name: value for name, value in options if value is not None},
        prefix=f"{context.section}.options.",
        network=context.custom.networks.get(model),
    )


def _objectives(values: Values, context: _Context) -> tuple[ObjectiveChoice, ...]:
    choices: dict[str, ObjectiveChoice] = {}
    for key, fields in values["objectives"].items():
        options = dict(fields)
        weight, warmup = options.pop("weight", 1.0), options.pop("warmup", 0)
        name, factory = _origin(key, options.pop("factory", ""))
        if name in choices:
            raise errors.InputError(
                f"config.objectives has two objectives named '{name}'; rename one of them, and set"
                " its field factory to its import path"
            )
        objective = context.custom.objectives.get(name)
        choices[name] = ObjectiveChoice(name, weight, warmup, options, factory, objective)
    if not choices:
        raise errors.InputError("config.objectives is empty; add at least one, such as 'ce'")
    if not any(choice.weight for choice in choices.values()):
        raise errors.InputError(
            f"all weights in config.objectives are 0 ({', '.join(choices)}); set at least one above"
            " 0"
        )
    return tuple(choices.values())


def _origin(name: str, factory: str) -> tuple[str, str]:
    """Returns the name and the import path of an objective, whose name may be an import path."""
    if imports.is_path(name) and not factory:
        return objectives.record(name).name, name
    return name, factory


def _optimizer(values: Values, context: _Context) -> OptimizerChoice:
    choice = build(OptimizerChoice, values, transform=context.custom.transform)
    # Unknown names and contradictory numbers raise here.
    optim.check_decay(choice.layer_decay)
    choice.transformation(choice.schedule(values["train.epochs"], steps_per_epoch=1))
    return choice


def _teacher(values: Values, number: int, context: _Context) -> recipe.TeacherChoice:
    """Returns the current teacher of a config.

    Args:
      values: values of the config.
      number: index of the teacher among those with a network, from 0.
      context: context of the config.
    """
    section, label = values.label, _label(number)
    fields = build(TeacherFields, values)
    variables = context.custom.variables.get(fields.model)
    is_tuned = fields.fine_tune and variables is not None
    starts = {fields.model: (variables, {})} if is_tuned else {}
    custom = dataclasses.replace(context.custom, starts=starts)
    is_pretrained = not fields.fine_tune and bool(fields.checkpoint or variables is not None)
    part = _part(
        _teacher_values(values, fields),
        label,
        context._replace(section=section, custom=custom),
        is_trained=not is_pretrained,
    )
    for name in ("mean", "std", "image_size"):
        value = values[f"teacher.{name}"]
        if value is not None and not is_pretrained:
            raise errors.InputError(
                f"{section}.{name} is {value}, but this run trains the teacher on the student's"
                f" images; set {section}.checkpoint to trained weights, or set data.{name}"
            )
    dtype = _dtype(fields.dtype or values["dtype"], context.platform)
    return recipe.TeacherChoice(
        dataclasses.replace(part.training.network, dtype=dtype, drop_path=0.0),
        fields.checkpoint if is_pretrained else "",
        part,
        variables if is_pretrained else None,
        follows=fields.epochs is None,
        teaching=_teaching(values, label, section, is_pretrained=is_pretrained),
    )


def _teaching(values: Values, label: str, section: str, *, is_pretrained: bool) -> TeachingChoice:
    """Returns the current teacher's preprocessing: its student's if this run trains it."""
    choice = build(TeachingChoice, values, section=section, label=label)
    if is_pretrained:
        return choice
    return dataclasses.replace(choice, mean=None, std=None, image_size=None)


def _label(number: int) -> str:
    """Returns the name of a teacher in console lines, from its index."""
    return f"teacher{number + 1}" if number else "teacher"


def _shares(teachers: list[Values]) -> tuple[_Share, ...]:
    """Returns the share of each teacher; the weights have a sum of 1."""
    total = sum(teacher["teacher.weight"] for teacher in teachers)
    shares = []
    for teacher in teachers:
        texts = teacher["teacher.objectives"].split(",")
        names = tuple(filter(None, (text.strip() for text in texts)))
        for name in names:
            if name not in teacher["objectives"]:
                available = dict.fromkeys(teacher["objectives"])
                raise errors.InputError(
                    f"{teacher.label}.objectives names '{name}', which is not among the objectives"
                    f" of the run; {errors.hint(name, available)}available: {', '.join(available)}"
                )
        shares.append(_Share(teacher["teacher.weight"] / total, names))
    return tuple(shares)


def _cache(teachers: list[Values]) -> CacheChoice:
    """Returns the cache settings, which must be equal for all teachers."""
    choices = [build(CacheChoice, teacher) for teacher in teachers]
    for attribute, field in fields_of(CacheChoice).items():
        settings = sorted({getattr(choice, attribute) for choice in choices})
        if len(settings) > 1:
            raise errors.InputError(
                f"the teachers' {field.name} is {' and '.join(settings)}; set one value for all"
                " teachers"
            )
    return choices[0] if choices else _NO_CACHE


def _teacher_values(values: Values, fields: TeacherFields) -> Values:
    """Returns the values that train a teacher, which is a run with cross-entropy only."""
    teacher = _alone(values)
    for name, field in fields_of(TeacherFields).items():
        value = getattr(fields, name)
        is_unused = field.overrides.startswith("student.") and name not in (
            "model",
            "options",
            "positions",
        )
        if is_unused and not fields.is_trained:
            value = FIELDS[field.overrides].default
        is_open = value is None or (value == "" and field.default is None)
        if field.overrides and not is_open:
            teacher[field.overrides] = value
    teacher["student.checkpoint"] = fields.checkpoint if fields.fine_tune else ""
    teacher["data.views.count"] = 0
    return teacher


def _alone(values: Values, smoothing: float | None = None) -> Values:
    """Returns the values that train the student without a teacher.

    Args:
      values: values of the student's run.
      smoothing: label smoothing; None or 0 for no smoothing.
    """
    ce = {"weight": 1.0, **({"label_smoothing": smoothing} if smoothing else {})}
    alone = dataclasses.replace(
        values, teachers=values.teachers[:1], labels=("teacher",), current=0
    ).copy()
    alone.root.update(
        objectives={"ce": ce}, method="ce", label="", baseline=False, from_scratch=False
    )
    alone.teachers[0].update(
        {
            f.name: f.default
            for f in FIELDS.values()
            if f.section == "teacher"
            and f.name not in _TEACHER_FIELDS_OF_ALONE
            and not isinstance(f.kind, Auto)
        }
    )
    return alone


def _from_scratch(values: Values) -> Values:
    """Returns the values that train the whole student from random weights."""
    scratch = values.copy()
    for name in _CHECKPOINT_FIELDS:
        scratch[f"student.{name}"] = FIELDS[f"student.{name}"].default
    scratch.root.update(baseline=False, from_scratch=False)
    return scratch
