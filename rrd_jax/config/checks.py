"""What a config says, checked as a whole before anything is made of it.

Every value is of its kind, as the table of `fields` has it; those that exclude each other are
refused. What needs a network, an objective or an optimizer is checked where that is made.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from rrd_jax import errors, imports
from rrd_jax.config import kinds, unknown
from rrd_jax.config.fields import BY_PATH, FIELDS, Field
from rrd_jax.config.kinds import Integer, Kind, Real
from rrd_jax.objectives import RECORDS

_SECTIONS = tuple(dict.fromkeys(field.path.rpartition(".")[0] for field in FIELDS))
# Fields that every objective has beside its options.
OF_OBJECTIVES: dict[str, Kind] = {
    "weight": Real(minimum=0, maximum=1e9),
    "warmup": Integer(0),
    "factory": kinds.Text(),
}
# A part of a split expression, as TFDS reads it: a split, and from where to where.
_PLACE = r"-?[\d_.]+(?:%|shard)?"
_SPLIT = re.compile(rf"[\w-]+(?:\[(?:({_PLACE})?:({_PLACE})?|\d+(?:%|shard))\])?")


def check(config: ConfigDict, made: Collection[str] = ()) -> None:
    """Raises an InputError for the first fault of a config.

    Args:
      config: the fields.
      made: names of objectives that were made in Python.
    """
    if not isinstance(config, ConfigDict):
        raise errors.InputError(
            f"the config is of type {type(config).__name__}, but must be a ConfigDict, such as"
            " rrd_jax.config.defaults()"
        )
    check_names(config)
    for path, field, value in entries(config):
        if fault := field.kind.fault(path, value):
            raise errors.InputError(fault)
    for name, given in config.objectives.items():
        if fault := _fault_of_objective(name, given, made):
            raise errors.InputError(fault)
    for fault in _contradictions(config):
        raise errors.InputError(fault)


def check_names(config: ConfigDict, path: str = "the config") -> None:
    """Raises an InputError for fields that cannot be read at all.

    Their names are no text, which ml_collections cannot sort, or they are placeholders that wait
    for a value.
    """
    try:
        fields = config.items(preserve_field_references=True)
    except TypeError:
        raise errors.InputError(f"{path} has fields whose names are not text") from None
    for name, value in fields:
        inside = str(name) if path == "the config" else f"{path}.{name}"
        try:
            value = value.get() if isinstance(value, config_dict.FieldReference) else value
        except config_dict.RequiredValueError:
            raise errors.InputError(
                f"{inside} has no value, but is required: set it with --config.{inside}=..."
            ) from None
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, ConfigDict):
                check_names(part, inside)


def teachers(config: ConfigDict) -> Iterator[tuple[str, ConfigDict]]:
    """The fields of each teacher, and what they are called on the command line."""
    if not isinstance(config.teacher, list | tuple):
        yield "teacher", config.teacher
        return
    for i, fields in enumerate(config.teacher):
        yield f"teacher[{i}]", fields


def entries(config: ConfigDict) -> Iterator[tuple[str, Field, Any]]:
    """Every field of a config: its path as the command line has it, what it is, its value.

    Raises:
      InputError: a section or a field is missing, or unknown.
    """
    for section in _SECTIONS:
        holder = config
        for name in filter(None, section.split(".")):
            if name not in holder:
                raise errors.InputError(f"the config lacks '{section}'; config.defaults() has it")
            holder = holder[name]
        holders = {section: holder}
        if section == "teacher":
            holders = dict(teachers(config))
            if not holders:
                raise errors.InputError("config.teacher is an empty list; set teacher.model to ''")
        names = [path.rpartition(".")[2] for path in BY_PATH if path.rpartition(".")[0] == section]
        for label, holder in holders.items():
            yield from _of_section(config, section, label, holder, names)


def _of_section(
    config: ConfigDict, section: str, label: str, holder: Any, names: list[str]
) -> Iterator[tuple[str, Field, Any]]:
    prefix = f"{label}." if label else ""
    if not isinstance(holder, ConfigDict):
        raise errors.InputError(
            f"{label} is {kinds.shown(holder)}, but is a section: set its fields, such as"
            f" {prefix}{names[0]}"
        )
    for name in holder:
        path = f"{section}.{name}" if section else name
        if name not in names and path not in _SECTIONS:
            raise errors.InputError(unknown.message(f"{prefix}{name}", config))
    missing = [name for name in names if name not in holder]
    if missing:
        raise errors.InputError(
            f"{label or 'the config'} lacks {', '.join(missing)}: set fields one by one, such as"
            f" --config.{prefix}{names[0]}=..., and the others keep their defaults"
        )
    for name in names:
        yield f"{prefix}{name}", BY_PATH[f"{section}.{name}" if section else name], holder[name]


def _fault_of_objective(name: Any, given: Any, made: Collection[str]) -> str:
    if not isinstance(given, Mapping | ConfigDict):
        return (
            f"objectives.{name} is {kinds.shown(given)}, but must be a dict of its fields, such as"
            " {'weight': 1.0}"
        )
    if not imports.is_path(str(name)) and not re.fullmatch(r"[\w+-]+", str(name)):
        return (
            f"an objective is called {kinds.shown(name)}, but names are of letters, digits, _, +"
            " and -, as figures are listed under them"
        )
    known = OF_OBJECTIVES | ({} if name in made else option_kinds(name, given))
    faults = (
        known[field].fault(f"objectives.{name}.{field}", value)
        for field, value in given.items()
        if field in known
    )
    return next(filter(None, faults), "")


def option_kinds(name: str, given: Mapping[str, Any]) -> dict[str, Kind]:
    """The kinds of the options of an objective of ours; those of others are not known here."""
    if given.get("factory") or imports.is_path(str(name)):
        return {}
    factory = errors.lookup("objective", name, RECORDS).factory
    known = {
        option: kinds.of_option(parameter)
        for option, parameter in imports.parameters(factory).items()
    }
    return {option: kind for option, kind in known.items() if kind}


def _contradictions(config: ConfigDict) -> Iterator[str]:
    data, train = config.data, config.train
    if data.augment == "crop_flip" and data.pad > data.image_size:
        yield f"data.pad is {data.pad}, more than the {data.image_size} pixels of data.image_size"
    if data.views.teacher == "weak" and data.mix != "none":
        yield (
            f"data.views.teacher is weak, but data.mix is {data.mix}, a mixture that the teacher"
            " sees too: leave one out"
        )
    if len(data.mean) != len(data.std):
        yield (
            f"data.mean is {data.mean} and data.std {data.std}: one has {len(data.mean)} channels,"
            f" the other {len(data.std)}"
        )
    if train.batch_size % train.accumulate:
        yield (
            f"train.batch_size {train.batch_size} is not a multiple of the {train.accumulate} parts"
            " of train.accumulate"
        )
    splits = {"data.train_split": data.train_split, "data.test_split": data.test_split}
    for label, fields in teachers(config):
        splits[f"{label}.train_split"] = fields.train_split or data.train_split
        if fields.checkpoint and not fields.model:
            yield (
                f"{label}.checkpoint is {kinds.shown(fields.checkpoint)}, but {label}.model is"
                " empty: name the network that its weights are of"
            )
        if fields.probe and fields.class_vectors:
            yield (
                f"{label}.probe is True and {label}.class_vectors"
                f" {kinds.shown(fields.class_vectors)}: its logits come from one of them"
            )
    for path, split in splits.items():
        if fault := _fault_of_split(split):
            yield f"{path} is {kinds.shown(split)}, {fault}"


def _fault_of_split(split: str) -> str:
    """What is wrong with a split expression, as far as no data set is needed to see it."""
    for part in split.split("+"):
        text = part.strip()
        match = _SPLIT.fullmatch(text)
        if match is None:
            return "but must name a split, such as train, train[:90%] or train[:500]+test"
        ends = zip(match.groups(), (0, None), strict=True)
        first, last = (_place(place, default) for place, default in ends)
        if any(place and place[1] == "%" and abs(place[0]) > 100 for place in (first, last)):
            return f"but '{text}' goes beyond 100%"
        is_empty = (
            first
            and last
            and (first[1] == last[1] or not first[0])
            and (first[0] < 0) == (last[0] < 0)
            and first[0] >= last[0]
        )
        if is_empty or first == (100, "%"):
            return f"but '{text}' has no images: it ends before it begins"
    return ""


def _place(text: str | None, default: float | None) -> tuple[float, str] | None:
    """Number and unit of a boundary; None for the end of the split."""
    if not text:
        return None if default is None else (default, "")
    unit = re.sub(r"[-\d_.]", "", text)
    try:
        return float(text.removesuffix(unit)), unit
    except ValueError:
        return None
