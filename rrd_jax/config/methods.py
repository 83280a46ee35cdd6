"""Methods: which objectives a run has, with what weights and options.

    configs/cifar100.py:resnet32x4-resnet8x4,crd+kd    a name of METHODS
    configs/cifar100.py:resnet32x4-resnet8x4,sp+vid    any other combination

Every option can be set on the command line: --config.objectives.crd.negatives=4096. The catalogue,
python -m rrd_jax.objectives, says what each objective compares; the factories in rrd_jax/objectives
say what their options mean.
"""

import difflib
import re

from ml_collections import ConfigDict, config_dict

from rrd_jax import errors, networks


def objectives() -> dict[str, dict]:
    """Every objective's weight, as published for CIFAR-100 with ce at 1, and options.

    The factories' defaults, but for what the trainer fills in: the number of examples, and the
    batch size of semckd. A placeholder is None, which leaves the choice to the factory.
    """
    unset = config_dict.placeholder
    return {
        "ce": {"weight": 1.0},
        # standardize: of logits, by their deviation; published with temperature 2.
        "kd": {"weight": 1.0, "temperature": 4.0, "standardize": False},
        "wsld": {"weight": 1.0, "temperature": 2.0, "alpha": 2.5, "standardize": False},
        "dkd": {
            "weight": 1.0,
            "temperature": 4.0,
            "alpha": 1.0,
            "beta": 8.0,
            "standardize": False,
            "warmup": 20,
        },
        "dist": {  # published for ImageNet: temperature, beta and gamma 1
            "weight": 1.0,
            "temperature": 4.0,
            "beta": 2.0,
            "gamma": 2.0,
            "standardize": False,
        },
        "r2kd": {
            "weight": 1.0,
            "temperature": 4.0,
            "value": 1.0,
            "rank": 1.0,
            "rank_temperature": 0.1,
            "standardize": False,
        },
        "cmkd": {
            "weight": 1.0,
            "value": 1.0,
            "rank": 1.0,
            "by_difficulty": True,
            "rank_temperature": 0.1,
        },
        "sp": {"weight": 3000.0},
        "rkd": {"weight": 1.0, "distance": 25.0, "angle": 50.0},
        "pkt": {"weight": 30000.0},
        "cc": {"weight": 0.02, "dim": 128},
        "ckd": {"weight": 1.0},
        "itrd": {"weight": 1.0, "alpha": 1.5, "correlation": 2.0, "mutual": 0.05},
        "ega": {"weight": 1.0, "node": 1.0, "edge": 0.3},
        "dcd": {
            "weight": 1.0,
            "dim": 128,
            "alpha": 0.5,
            "log_scale": 1.0,
            "max_scale": 10.0,
            "scale": unset(float),
        },
        "crd": {
            "weight": 0.8,
            "memory": "fifo",  # bank: the paper's two banks of all examples
            "temperature": 0.07,
            "negatives": 16384,
            "dim": 128,
            "push_before": False,
            "initial": "unit",  # how a queue starts: unit, or reference for the authors' scale
            "momentum": 0.5,
        },
        "rrd": {
            "weight": 1.0,
            # sharp_student (temperatures 0.04 and 0.10, compared before the batch is pushed) or
            # sharp_teacher (0.10 and 0.02, after); the three fields below override it one by one.
            "preset": "sharp_student",
            "temperature_student": unset(float),
            "temperature_teacher": unset(float),
            "push_before": unset(bool),
            "memory": "fifo",  # momentum, momentum_reference: a bank of all examples
            "queue_size": 16384,  # teacher embeddings in the memory
            "dim": 128,  # length of an embedding
            "initial": "unit",  # as of crd
            # Rows compared at once: 0 for all; None: 16384 where they would not fit otherwise.
            "chunk": unset(int),
            "momentum": 0.5,
            "temperature_bank": 0.07,
        },
        "fitnet": {"weight": 100.0, "tap": 2},
        "at": {"weight": 1000.0, "power": 2.0},
        "nst": {"weight": 50.0},
        "vid": {"weight": 1.0, "variance": 5.0, "epsilon": 1e-5},
        "kdsvd": {"weight": 1.0, "rank": 1},
        "ssim": {"weight": 1.0, "window": 11, "deviation": 1.5},
        "semckd": {"weight": 400.0, "temperature": 1.0},
        # Published: 0.6 for resnet56-resnet20, 1 for resnet110-resnet32, 8 for
        # resnet32x4-shufflenetv2_cifar, 5 for the other pairs.
        "reviewkd": {"weight": 5.0, "warmup": 20, "width": unset(int)},
        "srrl": {"weight": 1.0},
        "simkd": {"weight": 1.0, "factor": 2},
        # What ab and fsp train, they train in a stage before distillation, which has no weight.
        "ab": {"weight": 1.0, "margin": 1.0, "epochs": 30, "learning_rate": unset(float)},
        # Published learning rate of the stage: 0.01 for ResNet and WRN students, else the run's.
        "ft": {"weight": 200.0, "rate": 0.5, "order": 1, "epochs": 30, "learning_rate": 0.01},
        "fsp": {"weight": 50.0, "epochs": 30, "learning_rate": unset(float)},
    }


# Where no paper's CIFAR-100 recipe could be verified, the weight is 1.
UNVERIFIED = frozenset({"r2kd", "cmkd", "ckd", "ega", "kdsvd", "ssim"})

# What comes with an objective instead of ce at 1 and nothing else, in its published recipe.
_COMPANY = {
    "wsld": {"ce": 0.0},  # contains it
    "simkd": {"ce": 0.0},  # the classifier is the teacher's
    "semckd": {"kd": 1.0},
    "srrl": {"kd": 1.0},
}


def _weights(name: str) -> dict[str, float]:
    """The weights of a combination a+b+c, with ce and what its objectives come with."""
    known, weights = objectives(), {"ce": 1.0}
    parts = name.split("+")
    for part in parts:
        if part not in known:
            raise errors.InputError(
                f"unknown objective '{part}' in method '{name}'; {_hint(part, known)}python -m"
                " rrd_jax.objectives lists the objectives, which are joined by +"
            )
        weights |= _COMPANY.get(part, {})
    weights |= {part: known[part]["weight"] for part in parts}
    return {part: weights[part] for part in known if part in weights}


# The usual methods: the weights of their objectives. kd alone has weights of its own.
METHODS: dict[str, dict[str, float]] = {
    name: _weights(name) for name in (*objectives(), "crd+kd", "dcd+kd", "rrd+kd")
} | {"kd": {"ce": 0.1, "kd": 0.9}}


def method(name: str) -> ConfigDict:
    """The objectives of a method, with their options and their weights in the total loss.

    Args:
      name: a key of METHODS, or names of objectives joined by +: each with its published weight,
        and ce with 1 unless one of them asks for another.

    Raises:
      InputError: an unknown objective.
    """
    weights, known = METHODS.get(name) or _weights(name), objectives()
    # warmup: epochs over which the weight grows from 0, linearly; 0 for none.
    return ConfigDict(
        {part: {"warmup": 0} | known[part] | {"weight": w} for part, w in weights.items()}
    )


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
        known = {**networks.MODELS, **objectives(), "smoke": None}
        wrong = next((part for part in re.split("[-+]", option) if part not in known), option)
        raise errors.InputError(
            f"config option '{option}' is not smoke, a pair TEACHER-STUDENT of networks or a"
            f" method; {_hint(wrong, known)}python -m rrd_jax.networks lists networks, python -m"
            " rrd_jax.objectives objectives, which are joined by +"
        ) from None


def _hint(name: str, known: dict) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'? " if close else ""
