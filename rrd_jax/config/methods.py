"""Methods: which objectives a run has, with what weights and options.

    configs/cifar100.py:resnet32x4-resnet8x4,crd+kd    a name of METHODS
    configs/cifar100.py:resnet32x4-resnet8x4,sp+vid    any other combination

Every option can be set on the command line: --config.objectives.crd.negatives=4096. The catalogue,
python -m rrd_jax.objectives, says what each objective compares; the factories in rrd_jax/objectives
say what their options mean.
"""

import difflib
import inspect
import re
import typing
from typing import Any

from ml_collections import ConfigDict, config_dict

from rrd_jax import errors, networks
from rrd_jax.objectives import RECORDS, Record


def objectives() -> dict[str, dict[str, Any]]:
    """The fields of every objective: warmup and weight, as published, and its factory's options.

    A default of None becomes a placeholder of the option's type, so that the command line can set
    it. Options that the trainer fills in are left out.
    """
    return {
        name: {"warmup": record.warmup, "weight": record.weight, **_options(record)}
        for name, record in RECORDS.items()
    }


def _options(record: Record) -> dict[str, Any]:
    parameters = inspect.signature(record.factory).parameters
    return {
        name: _field(option) for name, option in parameters.items() if name not in record.filled_in
    }


def _field(option: inspect.Parameter) -> Any:
    """The default, or a placeholder of T where that is None and the annotation T | None."""
    if option.default is not None:
        return option.default
    kind, _ = typing.get_args(option.annotation)
    return config_dict.placeholder(kind)


# Where no paper's CIFAR-100 recipe could be verified, the weight is 1.
UNVERIFIED = frozenset(name for name, record in RECORDS.items() if not record.verified)


def _weights(name: str) -> dict[str, float]:
    """The weights of a combination a+b+c, with ce and what its objectives come with."""
    weights = {"ce": 1.0}
    parts = name.split("+")
    for part in parts:
        if part not in RECORDS:
            raise errors.InputError(
                f"unknown objective '{part}' in method '{name}'; {_hint(part, RECORDS)}python -m"
                " rrd_jax.objectives lists the objectives, which are joined by +"
            )
        weights |= RECORDS[part].company
    weights |= {part: RECORDS[part].weight for part in parts}
    return {part: weights[part] for part in RECORDS if part in weights}


# The usual methods: the weights of their objectives.
METHODS: dict[str, dict[str, float]] = {
    name: dict(record.alone) or _weights(name) for name, record in RECORDS.items()
} | {name: _weights(name) for name in ("crd+kd", "dcd+kd", "rrd+kd")}


def method(name: str) -> ConfigDict:
    """The objectives of a method, with their options and their weights in the total loss.

    Args:
      name: a key of METHODS, or names of objectives joined by +: each with its published weight,
        and ce with 1 unless one of them asks for another.

    Raises:
      InputError: an unknown objective.
    """
    weights, fields = METHODS.get(name) or _weights(name), objectives()
    return ConfigDict({part: fields[part] | {"weight": w} for part, w in weights.items()})


def limit(config: ConfigDict, **most: float) -> None:
    """Lowers these options, such as queue_size, of whichever objectives of a config have them."""
    for options in config.objectives.values():
        for field in options.keys() & most.keys():
            options[field] = min(options[field], most[field])


def check_option(option: str) -> None:
    """Raises an InputError for a config option that is neither a method nor anything else."""
    try:
        method(option)
    except errors.InputError:
        known = {**networks.MODELS, **RECORDS, "smoke": None}
        wrong = next((part for part in re.split("[-+]", option) if part not in known), option)
        raise errors.InputError(
            f"config option '{option}' is not smoke, a pair TEACHER-STUDENT of networks or a"
            f" method; {_hint(wrong, known)}python -m rrd_jax.networks lists networks, python -m"
            " rrd_jax.objectives objectives, which are joined by +"
        ) from None


def _hint(name: str, known: dict[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'? " if close else ""
