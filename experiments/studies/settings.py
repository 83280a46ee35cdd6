"""Common settings of the studies: arguments, methods and data sets."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.study import design
from rrd_jax import errors, objectives

# Each objective as published, and the combinations of the paper (arXiv 2407.12073, tables 1 and 2).
ALL_METHODS = (*objectives.RECORDS, "crd+kd", "dcd+kd", "rrd+kd")
# Methods of studies that vary another factor.
METHODS = ("ce", "kd", "rrd", "rrd+kd")
# Methods for a teacher with more channels than the student: two objectives need equal channels.
WIDER_TEACHER = tuple(name for name in ALL_METHODS if name not in ("fsp", "kdsvd"))
# A common recipe for transformers, which also trains convolutional networks.
ADAMW = {
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 2e-3,
    "optimizer.weight_decay": 0.05,
    "optimizer.decay_norm_and_bias": False,
    "optimizer.schedule": "cosine",
    "optimizer.warmup_epochs": 2.0,
    "optimizer.clip_norm": 1.0,
}


@dataclasses.dataclass(frozen=True)
class Options:
    """The words after the colon of --study, separated by commas.

    Attributes:
      smoke: "smoke", which is also a word of config strings, or "".
      named: all other words, such as methods.
    """

    smoke: str
    named: tuple[str, ...]

    def name(self, name: str) -> str:
        """Returns the name of the study; the smoke form has a separate folder."""
        return f"{name}-smoke" if self.smoke else name

    def seeds(self, number: int) -> tuple[int, ...]:
        """Returns this number of seeds, from 0; two seeds for the smoke form."""
        return tuple(range(2 if self.smoke else number))


@dataclasses.dataclass(frozen=True)
class Setup:
    """The data set of a study, with launch file and schedule.

    Attributes:
      name: the name of the data set.
      config: the launch file.
      fields: config fields of all runs.
      epochs: the number of epochs of the student.
      methods: the methods in the argument of the study.
      about: a description for the page.
    """

    name: str
    config: str
    fields: Mapping[str, Any]
    epochs: int
    methods: tuple[str, ...]
    about: str


_ABOUT = {
    "digits": "The teacher resnet8x4 is trained on all 1 000 training images of scikit-learn's"
    " digits; the student is resnet8. One of the 797 test images is 0.13 points.",
    "fashion_mnist": "resnet32x4 to resnet8 on the first 10 000 training images of Fashion-MNIST.",
    "cifar100": "resnet32x4 to resnet8x4 on CIFAR-100, with the recipe of arXiv 2407.12073.",
}
_EPOCHS = {"digits": 60, "fashion_mnist": 80, "cifar100": 240}


def make_setup(options: Options, *others: str) -> Setup:
    """Returns the setup for the data set in the options; digits by default.

    Args:
      options: the options of the study.
      *others: words that are neither data sets nor methods.
    """
    sets = [name for name in options.named if name in _EPOCHS]
    if len(sets) > 1:
        raise errors.InputError(f"{' and '.join(sets)} are both data sets; pass only one")
    name = sets[0] if sets else "digits"
    methods = tuple(word for word in options.named if word not in (*sets, *others))
    fields = {} if options.smoke else {"train.epochs": _EPOCHS[name]}
    epochs = 2 if options.smoke else _EPOCHS[name]
    return Setup(name, f"configs/{name}.py", fields, epochs, methods, _ABOUT[name])


def data_grid(
    options: Options, setup: Setup, factor: design.Factor, **arguments: Any
) -> design.Grid:
    """Returns a grid of methods over a factor that degrades the training data.

    Args:
      options: the options of the study.
      setup: the data set of the study.
      factor: the factor; the seed determines the affected images and labels.
      **arguments: other arguments of the grid: name, question and fields.
    """
    return design.Grid(
        config=setup.config,
        argument=options.smoke,
        factors=(factor, design.methods(*(setup.methods or METHODS))),
        seeded=("seed", "data.noise_seed"),
        seeds=options.seeds(3),
        baseline="ce",
        display="curve",
        **arguments,
    )


def same_steps(factor: design.Factor, epochs: int) -> design.Factor:
    """Returns a factor of image shares, with epochs inversely proportional to the share."""
    levels = []
    for level in factor.levels:
        fields = {**level.fields, "train.epochs": round(epochs / level.value)}
        levels.append(dataclasses.replace(level, fields=fields))
    return dataclasses.replace(factor, levels=tuple(levels))


def select(kind: str, names: Sequence[str], options: Mapping[str, Any]) -> tuple[Any, ...]:
    """Returns the options with these names; raises an InputError for an unknown name."""
    return tuple(errors.lookup(kind, name, options) for name in names)


def read(argument: str) -> Options:
    """Parses the argument of a study."""
    words = [word for word in argument.split(",") if word]
    named = tuple(word for word in words if word != "smoke")
    return Options("smoke" if "smoke" in words else "", named)
