"""Distillation with imbalanced classes.

    python -m experiments.study --study=experiments/studies/imbalance.py --jobs=2

The default data set is digits, for a CPU; the teacher is trained on all images. The test images are
not imbalanced, so top-1 differs from the balanced accuracy only by the class sizes of the test
split; the page has both. Words after the colon: methods, to run only these; fashion_mnist or
cifar100, for this data set; smoke, for a few random images.
"""

from experiments.studies import settings
from experiments.study import design

# Ratios of the largest class to the smallest class.
_RATIOS = (1.0, 3.0, 10.0)


def get_study(argument: str = "") -> design.Study:
    """Returns the study; the module's docstring describes the argument."""
    options = settings.read(argument)
    setup = settings.make_setup(options)
    ratios = _RATIOS if setup.name == "digits" else (1.0, 10.0, 100.0)
    factor = design.field(
        "data.imbalance",
        *ratios,
        name="imbalance",
        label="largest class / smallest class",
        log=True,
    )
    grid = settings.data_grid(
        options,
        setup,
        factor,
        name="imbalance",
        question="How much does distillation improve a student with imbalanced classes?",
        fields=setup.fields | {"teacher.imbalance": 1.0},
    )
    return design.Study(
        options.name(f"imbalance_{setup.name}"), "Imbalanced classes", (grid,), about=setup.about
    )
