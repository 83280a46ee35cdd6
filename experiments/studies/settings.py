"""What the studies share: how their argument is read, and the methods."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.study import design
from rrd_jax import errors, objectives

# Each objective as published, and the paper's own combinations (arXiv 2407.12073, tables 1 and 2).
ALL_METHODS = (*objectives.RECORDS, "crd+kd", "dcd+kd", "rrd+kd")
METHODS = ("ce", "kd", "rrd", "rrd+kd")  # of studies that are about something else
# Of a teacher with more channels than its student: two objectives compare channel with channel.
WIDER_TEACHER = tuple(name for name in ALL_METHODS if name not in ("fsp", "kdsvd"))


@dataclasses.dataclass(frozen=True)
class Options:
    """What stands behind the colon of --study, separated by commas.

    Attributes:
      smoke: "smoke", which config strings know too, or "".
      named: all others, such as methods.
    """

    smoke: str
    named: tuple[str, ...]

    def name(self, name: str) -> str:
        """Of the study: smoke has a folder of its own."""
        return f"{name}-smoke" if self.smoke else name

    def seeds(self, number: int) -> tuple[int, ...]:
        """0 to a number less one; for smoke, two."""
        return tuple(range(2 if self.smoke else number))


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a study is made.

    Attributes:
      name: of the data set.
      config: the launch file.
      fields: of all runs.
      epochs: of the student.
      methods: that were named.
      about: the setting, for the page.
    """

    name: str
    config: str
    fields: Mapping[str, Any]
    epochs: int
    methods: tuple[str, ...]
    about: str


_ABOUT = {
    "digits": "resnet8x4 is the teacher and has seen all 1 000 training images of scikit-learn's"
    " digits, resnet8 is the student. Of the 797 test images, one is 0.13 points.",
    "fashion_mnist": "resnet32x4 to resnet8 on the first 10 000 training images of Fashion-MNIST.",
    "cifar100": "resnet32x4 to resnet8x4 on CIFAR-100, by the recipe of arXiv 2407.12073.",
}
_EPOCHS = {"digits": 60, "fashion_mnist": 80, "cifar100": 240}


def place(options: Options, *others: str) -> Place:
    """Where a study is made: on digits, unless another data set is named.

    Args:
      options: of the study.
      *others: options that are neither data sets nor methods.
    """
    sets = [name for name in options.named if name in _EPOCHS]
    if len(sets) > 1:
        raise errors.InputError(f"{' and '.join(sets)} are both data sets; name one of them")
    name = sets[0] if sets else "digits"
    methods = tuple(word for word in options.named if word not in (*sets, *others))
    fields = {} if options.smoke else {"train.epochs": _EPOCHS[name]}
    epochs = 2 if options.smoke else _EPOCHS[name]
    return Place(name, f"configs/{name}.py", fields, epochs, methods, _ABOUT[name])


def over(options: Options, where: Place, factor: design.Factor, **given: Any) -> design.Grid:
    """The grid of a factor that makes the training data worse, by methods; a curve for each.

    Args:
      options: of the study.
      where: it is made.
      factor: of the data; which images and labels it takes follows the seed.
      **given: of the grid: name, question, fields.
    """
    return design.Grid(
        config=where.config,
        argument=options.smoke,
        factors=(factor, design.methods(*(where.methods or METHODS))),
        seeded=("seed", "data.noise_seed"),
        seeds=options.seeds(3),
        baseline="ce",
        shown="curve",
        **given,
    )


def same_steps(factor: design.Factor, epochs: int) -> design.Factor:
    """The factor of shares of the images, with as many more epochs as there are fewer images."""
    levels = []
    for level in factor.levels:
        longer = {"train.epochs": round(epochs / level.value)}
        levels.append(dataclasses.replace(level, fields={**level.fields, **longer}))
    return dataclasses.replace(factor, levels=tuple(levels))


def pick(kind: str, names: Sequence[str], known: Mapping[str, Any]) -> tuple[Any, ...]:
    """What is known by names, in their order; raises an InputError for one that is not."""
    return tuple(errors.lookup(kind, name, known) for name in names)


def read(argument: str) -> Options:
    """Reads what stands behind the colon."""
    options = [option for option in argument.split(",") if option]
    named = tuple(option for option in options if option != "smoke")
    return Options("smoke" if "smoke" in options else "", named)
