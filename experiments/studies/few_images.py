"""What distillation is worth where there are few images: 5 to 100 % of them.

    python -m experiments.study --study=experiments/studies/few_images.py --jobs=2

On the 1 000 digits, on a CPU; the teacher has seen them all. Behind the colon: methods, for these
alone; fashion_mnist or cifar100 for that in place of digits; smoke for the same on a few random
images.
"""

from experiments.studies import settings
from experiments.study import design

_SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)
_DIGITS = {"data.train_split": "train", "train.batch_size": 32}  # a twentieth is 50 images


def get_study(argument: str = "") -> design.Study:
    """See the module's docstring."""
    options = settings.read(argument)
    place = settings.place(options)
    # As many steps for each share: what differs is the images, not the time to learn.
    epochs = 12 if place.name == "digits" else place.epochs
    if options.smoke:
        fields = {}
    elif place.name == "digits":
        fields = _DIGITS
    else:
        fields = {"teacher.epochs": epochs}  # else as many as the student's
    factor = design.field(
        "data.share", *_SHARES, name="share", label="share of the training images", log=True
    )
    grid = settings.over(
        options,
        place,
        factor if options.smoke else settings.same_steps(factor, epochs),
        name="few_images",
        question="What is distillation worth where there are few images?",
        fields={"teacher.share": 1.0} | fields,
    )
    return design.Study(
        options.name(f"few_images_{place.name}"), "Few images", (grid,), about=place.about
    )
