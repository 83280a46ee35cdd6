"""Methods: which objectives a run has, with what weights and options.

    configs/cifar100.py:resnet32x4-resnet8x4,crd+kd    a name of METHODS
    configs/cifar100.py:resnet32x4-resnet8x4,sp+vid    any other combination

Every option can be set on the command line: --config.objectives.crd.negatives=4096. The catalogue,
python -m rrd_jax.objectives, says what each objective compares; the factories in rrd_jax/objectives
say what their options mean.
"""

import inspect
import re
from typing import Any, NamedTuple

from ml_collections import ConfigDict, config_dict

from rrd_jax import errors, imports, networks
from rrd_jax import objectives as registry
from rrd_jax.objectives import RECORDS, Record


def objectives() -> dict[str, dict[str, Any]]:
    """The fields of every objective of ours; see `fields`."""
    return {name: fields(record) for name, record in RECORDS.items()}


def fields(record: Record, path: str = "") -> dict[str, Any]:
    """The fields of an objective: warmup and weight, as published, and its factory's options.

    A default of None becomes a placeholder of the option's type, so that the command line can set
    it. Options that the trainer fills in are left out.

    Args:
      record: the objective's.
      path: its import path, kept in the field `factory`; "" for one of ours, which has no such
        field.
    """
    options = {
        name: _field(option)
        for name, option in imports.parameters(record.factory).items()
        if name not in record.filled_in
    }
    origin = {"factory": path} if path else {}
    return {"warmup": record.warmup, "weight": record.weight, **origin, **options}


def _field(option: inspect.Parameter) -> Any:
    """The default, in the option's type; a placeholder of the type where there is none."""
    kind = imports.option_type(option)
    if option.default is None or option.default is inspect.Parameter.empty:
        return config_dict.placeholder(kind)
    return kind(option.default) if kind in (float, tuple) else option.default


def default_value(field: Any) -> Any:
    """Returns the default that a field of `fields` stands for: None for a placeholder."""
    return field.get() if hasattr(field, "get_type") else field


# Where no paper's CIFAR-100 recipe could be verified, the weight is 1.
UNVERIFIED = frozenset(name for name, record in RECORDS.items() if not record.verified)


class _Part(NamedTuple):
    """An objective of a method; `path` is "" for one of ours."""

    record: Record
    path: str


def _parts(name: str) -> dict[str, _Part]:
    """The objectives that a combination a+b+c names, by their names."""
    parts: dict[str, _Part] = {}
    for word in name.split("+"):
        path = word if imports.is_path(word) else ""
        if not path and word not in RECORDS:
            raise errors.InputError(
                f"unknown objective '{word}' in method '{name}'; {errors.hint(word, RECORDS)}"
                "python -m rrd_jax.objectives lists the objectives, which are joined by +"
            )
        if path and networks.is_network(imports.load("objective", path)):
            raise errors.InputError(
                f"'{path}' in method '{name}' is a network, and no objective; config.student.model"
                " and config.teacher.model name networks"
            )
        part = _Part(registry.record(word), path)
        if part.record.name in parts:
            raise errors.InputError(
                f"method '{name}' names two objectives '{part.record.name}'; leave one out, or"
                " rename it"
            )
        parts[part.record.name] = part
    return parts


def _weights(parts: dict[str, _Part]) -> dict[str, float]:
    """The weights of a combination, with ce and what its objectives come with."""
    if len(parts) == 1:
        ((record, _),) = parts.values()
        if record.alone:
            return dict(record.alone)
    weights = {"ce": 1.0}
    for record, _ in parts.values():
        weights |= record.company
    weights |= {name: part.record.weight for name, part in parts.items()}
    brought = [name for name in weights if name not in RECORDS]
    return {name: weights[name] for name in (*RECORDS, *brought) if name in weights}


# What config strings know beside networks and objectives.
WORDS = ("smoke", "folder", "moco", "dino")
# The usual methods: the weights of their objectives.
METHODS: dict[str, dict[str, float]] = {
    name: _weights(_parts(name)) for name in (*RECORDS, "crd+kd", "dcd+kd", "rrd+kd")
}


def method(name: str) -> ConfigDict:
    """The objectives of a method, with their options and their weights in the total loss.

    Args:
      name: a key of METHODS, or names and import paths of objectives joined by +: each with its
        published weight, and ce with 1 unless one of them asks for another.

    Raises:
      InputError: an unknown objective, or one that is named twice.
    """
    parts = _parts(name)
    ours = {part: _Part(record, "") for part, record in RECORDS.items()}
    chosen = {}
    for part, weight in _weights(parts).items():
        record, path = parts.get(part) or errors.lookup("objective", part, ours)
        chosen[part] = fields(record, path) | {"weight": weight}
    return ConfigDict(chosen)


def limit(config: ConfigDict, **most: float) -> None:
    """Lowers these options, such as queue_size, of whichever objectives of a config have them."""
    for options in config.objectives.values():
        for field in options.keys() & most.keys():
            if isinstance(options[field], int | float):  # a user's objective may say it otherwise
                options[field] = min(options[field], most[field])


def smooth_labels(config: ConfigDict, share: float) -> None:
    """Sets the label smoothing of cross-entropy, where a config's objectives have that."""
    if "ce" in config.objectives:
        config.objectives.ce.label_smoothing = share


def leave_out_labels(config: ConfigDict) -> None:
    """Leaves out cross-entropy, where a config's method only brings it along."""
    if "ce" in config.objectives and "ce" not in config.method.split("+"):
        del config.objectives.ce


def check_option(option: str) -> None:
    """Raises an InputError for a config option that is neither a method nor anything else."""
    words = re.split("[-+]", option)
    if "-" in option and imports.is_path(option):
        wrong = next((word for word in words if not can_be_network(word)), option)
        raise errors.InputError(
            f"config option '{option}' cannot be read: '{wrong}' is no network, and no module has a"
            f" - in its name; {errors.hint(wrong, _names())}networks can also be named by"
            " --config.teacher.model and --config.student.model"
        )
    if "-" not in option and (imports.is_path(option) or set(words) <= set(RECORDS)):
        method(option)  # which says what is wrong
        return
    known = [*_names(), *RECORDS, *WORDS]
    wrong = next((word for word in words if word not in known), option)
    raise errors.InputError(
        f"config option '{option}' is not {', '.join(WORDS)}, a pair TEACHER-STUDENT of networks or"
        f" a method; {errors.hint(wrong, known)}python -m rrd_jax.networks lists networks, python"
        " -m rrd_jax.objectives objectives, which are joined by +"
    )


def can_be_network(name: str) -> bool:
    """Whether it names one of our networks, or is written as an import path is."""
    return networks.canonical(name) in networks.MODELS or bool(re.fullmatch(r"[\w.]+:[\w.]+", name))


def _names() -> list[str]:
    return [*networks.MODELS, *networks.ALIASES]
