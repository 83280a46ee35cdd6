"""Ablation of RRD: temperatures, memory, dimension, weight, presets and projection.

    python -m experiments.study --study=experiments/studies/ablation.py --jobs=2
    python -m experiments.study --study=experiments/studies/ablation.py:temperatures --jobs=2

The default data set is digits, for a CPU. Words after the colon: names of grids, to run only these
grids; cifar100, for resnet32x4-resnet8x4 on CIFAR-100; smoke, for a few random images.
"""

import dataclasses

from experiments.studies import settings
from experiments.study import design

_RRD = "objectives.rrd."


def get_study(argument: str = "") -> design.Study:
    """Returns the study; the module's docstring describes the argument."""
    options = settings.read(argument)
    on_cifar = "cifar100" in options.named
    size = 16384 if on_cifar else 1024
    base = design.Grid(
        name="",
        question="",
        factors=(),
        config="configs/cifar100.py" if on_cifar else "configs/digits.py",
        argument=",".join(filter(None, [options.smoke, "rrd"])),
        fields={
            f"{_RRD}queue_size": size,
            **({} if on_cifar or options.smoke else {"train.epochs": 40}),
        },
        seeds=options.seeds(3),
        measures=(),
    )
    grids = _grids(base, size)
    selected = [name for name in options.named if name != "cifar100"]
    by_name = {grid.name: grid for grid in grids}
    grids = settings.select("grid", selected, by_name) or grids
    name = options.name("ablation_cifar100" if on_cifar else "ablation")
    about = "Only RRD; all other fields have the values of the recipe. " + (
        "resnet32x4 to resnet8x4." if on_cifar else "resnet8x4 to resnet8 on 200 digits."
    )
    return design.Study(name, "Ablation of RRD", tuple(grids), about=about)


def _grids(base: design.Grid, size: int) -> tuple[design.Grid, ...]:
    values = (0.02, 0.04, 0.07, 0.1, 0.2)
    temperatures = tuple(
        design.field(
            f"{_RRD}temperature_{role}", *values, label=f"temperature of the {role}", log=True
        )
        for role in ("student", "teacher")
    )
    sizes = [size >> shift for shift in (8, 6, 4, 2, 0)]
    return tuple(
        dataclasses.replace(base, **fields)
        for fields in (
            {
                "name": "temperatures",
                "question": "Which two temperatures are best?",
                "factors": temperatures,
                "display": "map",
                "compared": "",
            },
            _curve(
                "queue",
                "How many rows does the queue need?",
                design.field(f"{_RRD}queue_size", *sizes, label="rows of the queue", log=True),
            ),
            _curve(
                "dimension",
                "How wide must the projection be?",
                design.field(
                    f"{_RRD}dim", 8, 16, 32, 64, 128, label="dimension of the embedding", log=True
                ),
            ),
            _curve(
                "weight",
                "Which weight should RRD have compared with cross-entropy?",
                design.field(
                    f"{_RRD}weight", 0.1, 0.3, 1.0, 3.0, 10.0, label="weight of the loss", log=True
                ),
            ),
            _choice(
                "preset",
                "Which of the two published forms is better?",
                design.field(f"{_RRD}preset", "sharp_student", "sharp_teacher"),
            ),
            _choice(
                "memory",
                "Is a queue better than a row for each training image?",
                design.field(f"{_RRD}memory", "fifo", "momentum"),
            ),
            _choice(
                "projection",
                "Is a trained projection of the student better than a random projection?",
                design.field(f"{_RRD}train_projection", True, False, name="trained"),
            ),
        )
    )


def _curve(name: str, question: str, factor: design.Factor) -> dict:
    fields = {"name": name, "question": question, "factors": (factor,), "compared": factor.name}
    return fields | {"display": "curve"}


def _choice(name: str, question: str, factor: design.Factor) -> dict:
    fields = {"name": name, "question": question, "factors": (factor,), "compared": factor.name}
    return fields | {"baseline": factor.levels[0].name}
