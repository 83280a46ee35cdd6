"""What distillation is worth where classes are a long tail.

    python -m experiments.study --study=experiments/studies/imbalance.py --jobs=2

On digits, on a CPU; the teacher has seen all images. The test images are balanced, so that top-1 is
the balanced accuracy but for the sizes of the classes there; the page has both. Behind the colon:
methods, for these alone; fashion_mnist or cifar100 for that in place of digits; smoke for the same
on a few random images.
"""

from experiments.studies import settings
from experiments.study import design

_RATIOS = (1.0, 3.0, 10.0)  # of the largest class to the smallest


def get_study(argument: str = "") -> design.Study:
    """See the module's docstring."""
    options = settings.read(argument)
    place = settings.place(options)
    ratios = _RATIOS if place.name == "digits" else (1.0, 10.0, 100.0)
    factor = design.field(
        "data.imbalance", *ratios, name="imbalance", label="largest class by smallest", log=True
    )
    grid = settings.over(
        options,
        place,
        factor,
        name="imbalance",
        question="What is distillation worth where classes are a long tail?",
        fields=place.fields | {"teacher.imbalance": 1.0},
    )
    return design.Study(
        options.name(f"imbalance_{place.name}"), "A long tail", (grid,), about=place.about
    )
