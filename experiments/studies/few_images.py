"""Distillation with few training images: 5 to 100 % of the data set.

    python -m experiments.study --study=experiments/studies/few_images.py --jobs=2

The default data set is digits with 1 000 images, for a CPU; the teacher is trained on all images.
Words after the colon: methods, to run only these; fashion_mnist or cifar100, for this data set;
smoke, for a few random images.
"""

from experiments.studies import settings
from experiments.study import design

_SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)
# The smallest share, a twentieth, has 50 images.
_DIGITS = {"data.train_split": "train", "train.batch_size": 32}


def get_study(argument: str = "") -> design.Study:
    """Returns the study; the module's docstring describes the argument."""
    options = settings.read(argument)
    setup = settings.make_setup(options)
    # All shares have the same number of steps, so that only the number of images varies.
    epochs = 12 if setup.name == "digits" else setup.epochs
    if options.smoke:
        fields = {}
    elif setup.name == "digits":
        fields = _DIGITS
    else:
        # The default would be the number of the student's epochs.
        fields = {"teacher.epochs": epochs}
    factor = design.field(
        "data.share", *_SHARES, name="share", label="share of the training images", log=True
    )
    grid = settings.data_grid(
        options,
        setup,
        factor if options.smoke else settings.same_steps(factor, epochs),
        name="few_images",
        question="How much does distillation improve a student with few images?",
        fields={"teacher.share": 1.0} | fields,
    )
    return design.Study(
        options.name(f"few_images_{setup.name}"), "Few images", (grid,), about=setup.about
    )
