"""Checks of a config's values, one by one and together.

Each value must be of the kind that its field declares, and fields must not contradict each other.
Checks that need a network, an objective or an optimizer run when that object is created.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from rrd_jax import errors, imports
from rrd_jax.config import unknown
from rrd_jax.config.fields import FIELDS, SECTIONS
from rrd_jax.objectives import RECORDS
from rrd_jax.settings import Field, Values, kinds
from rrd_jax.settings.kinds import Integer, Kind, Real

# Fields that every objective has in addition to its options.
OBJECTIVE_FIELDS: dict[str, Kind] = {
    "weight": Real(minimum=0, maximum=1e9),
    "warmup": Integer(0),
    "factory": kinds.Text(),
}
# One term of a split expression in TFDS's syntax: the name of a split and an optional slice.
_BOUNDARY = r"-?[\d_.]+(?:%|shard)?"
_SPLIT = re.compile(rf"[\w-]+(?:\[(?:({_BOUNDARY})?:({_BOUNDARY})?|\d+(?:%|shard))\])?")


def validate(config: ConfigDict, custom_objectives: Collection[str] = ()) -> Values:
    """Returns the values of a config after checking each of them.

    Args:
      config: fields as in `config.defaults`.
      custom_objectives: names of the objectives that are Python objects.

    Raises:
      InputError: a field is missing or unknown, a required value is not set, or a value is of the
        wrong kind.
    """
    if not isinstance(config, ConfigDict):
        raise errors.InputError(
            f"the config is of type {type(config).__name__}, but must be a ConfigDict, such as"
            " rrd_jax.config.defaults()"
        )
    values = read(config)
    for path, field, value in iterate_fields(values):
        _raise_if(field.kind.problem(path, value))
    for name, options in values["objectives"].items():
        _raise_if(_objective_problem(name, options, custom_objectives))
    return values


def _raise_if(problem: str) -> None:
    if problem:
        raise errors.InputError(problem)


def read(config: ConfigDict) -> Values:
    """Returns the values of a config as plain Python objects, without checking them.

    Raises:
      InputError: a field's name is not a string, which ml_collections cannot sort, or a required
        placeholder has no value.
    """
    return from_tree(_plain(config))


def from_tree(tree: dict[str, Any]) -> Values:
    """Returns the values of nested dicts, in which the teacher is a dict or a list of dicts."""
    teacher = tree.get("teacher")
    root = {name: value for name, value in tree.items() if name != "teacher"}
    if isinstance(teacher, list | tuple):
        return Values(root, tuple(teacher), tuple(f"teacher[{i}]" for i in range(len(teacher))))
    return Values(root, (teacher,) if "teacher" in tree else (), ("teacher",))


def _plain(value: Any, path: str = "the config") -> Any:
    if isinstance(value, list | tuple) and any(isinstance(part, ConfigDict) for part in value):
        return [_plain(part, path) for part in value]
    if not isinstance(value, ConfigDict):
        return value
    try:
        fields = value.items(preserve_field_references=True)
    except TypeError:
        raise errors.InputError(
            f"{path} has field names that are not strings; use strings"
        ) from None
    plain = {}
    for name, part in fields:
        field_path = str(name) if path == "the config" else f"{path}.{name}"
        try:
            part = part.get() if isinstance(part, config_dict.FieldReference) else part
        except config_dict.RequiredValueError:
            raise errors.InputError(
                f"{field_path} has no value, but is required; set it with --config.{field_path}=..."
            ) from None
        plain[name] = _plain(part, field_path)
    return plain


def iterate_fields(values: Values) -> Iterator[tuple[str, Field, Any]]:
    """Yields the path on the command line, the declaration and the value of every field.

    Raises:
      InputError: a section or a field is missing or unknown.
    """
    for section in SECTIONS:
        names = {field.name: field for field in FIELDS.values() if field.section == section}
        for label, holder in _holders(values, section):
            yield from _section_fields(values, label, holder, names)


def _holders(values: Values, section: str) -> list[tuple[str, Any]]:
    """Returns the label and the fields of a section; for `teacher`, those of each teacher."""
    if section == "teacher":
        if not values.labels:
            raise errors.InputError(
                "config.teacher is an empty list; for no teacher, set teacher.model to ''"
            )
        return list(zip(values.labels, values.teachers, strict=False)) or _raise_missing(section)
    holder = values.root
    for name in filter(None, section.split(".")):
        holder = holder[name] if name in holder else _raise_missing(section)
    return [(section, holder)]


def _raise_missing(section: str) -> Any:
    raise errors.InputError(f"the config has no section '{section}'; start from config.defaults()")


def _section_fields(
    values: Values, label: str, holder: Any, names: dict[str, Field]
) -> Iterator[tuple[str, Field, Any]]:
    prefix, first = f"{label}." if label else "", next(iter(names))
    if not isinstance(holder, dict):
        raise errors.InputError(
            f"{label} is {kinds.short_repr(holder)}, but is a section; set its fields, such as"
            f" {prefix}{first}"
        )
    for name in holder:
        if name not in names and f"{prefix}{name}" not in SECTIONS:
            raise errors.InputError(unknown.message(f"{prefix}{name}", values.tree))
    if missing := [name for name in names if name not in holder]:
        raise errors.InputError(
            f"{label or 'the config'} lacks {', '.join(missing)}; set fields one by one, such as"
            f" --config.{prefix}{first}=..., to keep the defaults of the rest"
        )
    for name, field in names.items():
        yield f"{prefix}{name}", field, holder[name]


def _objective_problem(name: Any, options: Any, custom: Collection[str]) -> str:
    if not isinstance(options, Mapping):
        return (
            f"objectives.{name} is {kinds.short_repr(options)}, but must be a dict of fields, such"
            " as {'weight': 1.0}"
        )
    if not imports.is_path(str(name)) and not re.fullmatch(r"[\w+-]+", str(name)):
        return f"invalid objective name {kinds.short_repr(name)}; use letters, digits, _, + and -"
    field_kinds = OBJECTIVE_FIELDS | ({} if name in custom else option_kinds(name, options))
    problems = (
        field_kinds[option].problem(f"objectives.{name}.{option}", value)
        for option, value in options.items()
        if option in field_kinds
    )
    return next(filter(None, problems), "")


def option_kinds(name: str, options: Mapping[str, Any]) -> dict[str, Kind]:
    """Returns the kinds of a built-in objective's options; {} for a custom objective."""
    if options.get("factory") or imports.is_path(str(name)):
        return {}
    factory = errors.lookup("objective", name, RECORDS).factory
    all_kinds = {
        option: kinds.kind_of(parameter)
        for option, parameter in imports.parameters(factory).items()
    }
    return {option: kind for option, kind in all_kinds.items() if kind}


def check_conflicts(values: Values) -> None:
    """Raises an InputError for the first fields that contradict each other."""
    for problem in _contradictions(values):
        raise errors.InputError(problem)


def _contradictions(values: Values) -> Iterator[str]:
    data, train = values["data"], values["train"]
    if data["augment"] == "crop_flip" and data["pad"] > data["image_size"]:
        yield (
            f"data.pad is {data['pad']}, but must be at most data.image_size, {data['image_size']}"
        )
    if data["views"]["teacher"] == "weak" and data["mix"] != "none":
        yield (
            f"data.views.teacher is weak, but data.mix is {data['mix']}, which mixes the teacher's"
            " images too; set data.views.teacher to same, or data.mix to none"
        )
    mean, std = data["mean"], data["std"]
    if len(mean) != len(std):
        yield (
            f"data.mean is {mean} with {len(mean)} channels, but data.std is {std} with {len(std)};"
            " set one value per channel in both"
        )
    if train["batch_size"] % train["accumulate"]:
        yield (
            f"train.batch_size is {train['batch_size']}, but must be a multiple of"
            f" train.accumulate, {train['accumulate']}"
        )
    splits = {f"data.{name}": data[name] for name in ("train_split", "test_split")}
    for label, fields in zip(values.labels, values.teachers, strict=True):
        splits[f"{label}.train_split"] = fields["train_split"] or data["train_split"]
        if fields["checkpoint"] and not fields["model"]:
            yield (
                f"{label}.checkpoint is {kinds.short_repr(fields['checkpoint'])}, but {label}.model"
                f" is empty; set {label}.model to the network of the checkpoint"
            )
        if fields["probe"] and fields["class_vectors"]:
            yield (
                f"{label}.probe is True and {label}.class_vectors is"
                f" {kinds.short_repr(fields['class_vectors'])}, but only one can compute"
                " the logits; omit one"
            )
    for path, split in splits.items():
        if problem := _split_problem(split):
            yield f"{path} is {kinds.short_repr(split)}, {problem}"
    if values["optimizer.name"] != "sgd":
        for name in ("momentum", "nesterov"):
            value = values[f"optimizer.{name}"]
            if value != FIELDS[f"optimizer.{name}"].default:
                yield (
                    f"optimizer.{name} is {value}, but only sgd has it; set options of"
                    f" '{values['optimizer.name']}' in optimizer.options"
                )


def _split_problem(split: str) -> str:
    """Returns the problem in the text of a split expression; "" for a valid expression."""
    for part in split.split("+"):
        text = part.strip()
        match = _SPLIT.fullmatch(text)
        if match is None:
            return "but must name a split, such as train, train[:90%] or train[:500]+test"
        ends = zip(match.groups(), (0, None), strict=True)
        first, last = (_boundary(end, default) for end, default in ends)
        if any(end and end[1] == "%" and abs(end[0]) > 100 for end in (first, last)):
            return f"but '{text}' exceeds 100%; use 0% to 100%"
        is_empty = (
            first
            and last
            and (first[1] == last[1] or not first[0])
            and (first[0] < 0) == (last[0] < 0)
            and first[0] >= last[0]
        )
        if is_empty or first == (100, "%"):
            return f"but '{text}' has no images: its start must be before its end"
    return ""


def _boundary(text: str | None, default: float | None) -> tuple[float, str] | None:
    """Returns the number and the unit of a slice boundary; None for the end of the split."""
    if not text:
        return None if default is None else (default, "")
    unit = re.sub(r"[-\d_.]", "", text)
    try:
        return float(text.removesuffix(unit)), unit
    except ValueError:
        return None
