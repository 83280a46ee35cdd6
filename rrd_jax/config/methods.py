"""Methods: the objectives of a run with their weights and options.

    configs/cifar100.py:resnet32x4-resnet8x4,crd+kd    a name of METHODS
    configs/cifar100.py:resnet32x4-resnet8x4,sp+vid    any other combination

Every option can be set on the command line: --config.objectives.crd.negatives=4096. The catalog,
python -m rrd_jax.objectives, lists what each objective compares; the factories in
rrd_jax/objectives document their options.
"""

import inspect
import re
from typing import Any, NamedTuple

from ml_collections import ConfigDict, config_dict

from rrd_jax import errors, imports, networks
from rrd_jax import objectives as registry
from rrd_jax.objectives import RECORDS, Record
from rrd_jax.settings.kinds import is_auto


def objectives() -> dict[str, dict[str, Any]]:
    """Returns the fields of every built-in objective; see `fields`."""
    return {name: fields(record) for name, record in RECORDS.items()}


def fields(record: Record, path: str = "") -> dict[str, Any]:
    """Returns the fields of an objective: published warm-up and weight, and its factory's options.

    A default of None becomes a placeholder of the option's type, so that the command line can set
    the option. Options that the trainer sets are omitted.

    Args:
      record: record of the objective.
      path: import path of a custom objective, stored in the field `factory`; "" for a built-in
        objective, which has no such field.
    """
    options = {
        name: _field(option)
        for name, option in imports.parameters(record.factory).items()
        if name not in record.filled_in
    }
    origin = {"factory": path} if path else {}
    return {"warmup": record.warmup, "weight": record.weight, **origin, **options}


def _field(option: inspect.Parameter) -> Any:
    """Returns an option's default in its type; a placeholder of the type if it has no default."""
    kind = imports.option_type(option)
    if option.default is None or option.default is inspect.Parameter.empty:
        return config_dict.placeholder(kind)
    if is_auto(option.default):
        # The command line reads a number, or else a text.
        return config_dict.FieldReference(option.default, field_type=object)
    return kind(option.default) if kind in (float, tuple) else option.default


def default_value(field: Any) -> Any:
    """Returns the default of a field in the result of `fields`: None for a placeholder."""
    return field.get() if hasattr(field, "get_type") else field


# Objectives whose weight is 1 because no published CIFAR-100 recipe could be verified.
UNVERIFIED = frozenset(name for name, record in RECORDS.items() if not record.verified)


class _Part(NamedTuple):
    """An objective of a method; `path` is "" for a built-in objective."""

    record: Record
    path: str


def _parts(name: str) -> dict[str, _Part]:
    """Returns the objectives of a combination a+b+c, by name."""
    parts: dict[str, _Part] = {}
    for word in name.split("+"):
        path = word if imports.is_path(word) else ""
        if not path and word not in RECORDS:
            raise errors.InputError(
                f"unknown objective '{word}' in method '{name}'; {errors.hint(word, RECORDS)}"
                "join objectives by +; python -m rrd_jax.objectives lists them"
            )
        if path and networks.is_network(imports.load("objective", path)):
            raise errors.InputError(
                f"'{path}' in method '{name}' is a network, but must be an objective; set networks"
                " with --config.student.model and --config.teacher.model"
            )
        part = _Part(registry.record(word), path)
        if part.record.name in parts:
            raise errors.InputError(
                f"method '{name}' names two objectives '{part.record.name}'; omit or rename one"
            )
        parts[part.record.name] = part
    return parts


def _weights(parts: dict[str, _Part]) -> dict[str, float]:
    """Returns the weights of a combination, including ce and objectives that others require."""
    if len(parts) == 1:
        ((record, _),) = parts.values()
        if record.alone:
            return dict(record.alone)
    weights = {"ce": 1.0}
    for record, _ in parts.values():
        weights |= record.company
    weights |= {name: part.record.weight for name, part in parts.items()}
    custom_names = [name for name in weights if name not in RECORDS]
    return {name: weights[name] for name in (*RECORDS, *custom_names) if name in weights}


# Words that a config string may contain in addition to networks and objectives.
WORDS = ("smoke", "folder", "moco", "dino")
# The weights of the objectives of the predefined methods.
METHODS: dict[str, dict[str, float]] = {
    name: _weights(_parts(name)) for name in (*RECORDS, "crd+kd", "dcd+kd", "rrd+kd")
}


def method(name: str) -> ConfigDict:
    """Returns the objectives of a method, with their options and weights in the total loss.

    Args:
      name: a key of METHODS, or names and import paths of objectives joined by +. Each objective
        gets its published weight; ce gets 1, unless another objective sets it.

    Raises:
      InputError: an objective is unknown, or appears twice.
    """
    parts = _parts(name)
    builtin = {part: _Part(record, "") for part, record in RECORDS.items()}
    chosen = {}
    for part, weight in _weights(parts).items():
        record, path = parts.get(part) or errors.lookup("objective", part, builtin)
        chosen[part] = fields(record, path) | {"weight": weight}
    return ConfigDict(chosen)


def limit(config: ConfigDict, **maxima: float) -> None:
    """Limits options, such as queue_size, in all objectives of a config that have them.

    An option that is "auto" becomes the maximum.
    """
    for options in config.objectives.values():
        for field in options.keys() & maxima.keys():
            # A custom objective may have an option of the same name that is not a number.
            if is_auto(options[field]):
                options[field] = maxima[field]
            elif isinstance(options[field], int | float):
                options[field] = min(options[field], maxima[field])


def smooth_labels(config: ConfigDict, share: float) -> None:
    """Sets the label smoothing of cross-entropy, if it is among a config's objectives."""
    if "ce" in config.objectives:
        config.objectives.ce.label_smoothing = share


def leave_out_labels(config: ConfigDict) -> None:
    """Removes cross-entropy from the objectives, unless the config's method names it."""
    if "ce" in config.objectives and "ce" not in config.method.split("+"):
        del config.objectives.ce


def check_option(option: str) -> None:
    """Raises an InputError for an option of a config string that is not a valid method."""
    words = re.split("[-+]", option)
    if "-" in option and imports.is_path(option):
        wrong = next((word for word in words if not can_be_network(word)), option)
        raise errors.InputError(
            f"invalid config option '{option}': '{wrong}' is not a network, and import paths cannot"
            f" contain -; {errors.hint(wrong, _network_names())}set networks with"
            " --config.teacher.model and --config.student.model instead"
        )
    if "-" not in option and (imports.is_path(option) or set(words) <= set(RECORDS)):
        # An invalid method raises an error here.
        method(option)
        return
    names = [*_network_names(), *RECORDS, *WORDS]
    wrong = next((word for word in words if word not in names), option)
    raise errors.InputError(
        f"invalid config option '{option}'; {errors.hint(wrong, names)}options are a pair"
        f" TEACHER-STUDENT (python -m rrd_jax.networks lists networks), objectives joined by +"
        f" (python -m rrd_jax.objectives lists them) and the words {', '.join(WORDS)}"
    )


def can_be_network(name: str) -> bool:
    """Returns True for the name of a built-in network, or an import path."""
    return networks.canonical(name) in networks.MODELS or bool(re.fullmatch(r"[\w.]+:[\w.]+", name))


def _network_names() -> list[str]:
    return [*networks.MODELS, *networks.ALIASES]
