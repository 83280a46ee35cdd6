"""Fashion-MNIST: every method, five seeds; 10 000 training images, on an accelerator.

    apt-get install dataset-fashion-mnist
    python -m experiments.study --study=experiments/studies/fashion_mnist.py --jobs=4

Behind the colon: methods, for these alone, as in fashion_mnist.py:ce,rrd+kd; small for images of 10
pixels, 500 of them for the student and 1 000 for testing, which two CPU cores make in an hour;
smoke for the same on a few random images.
"""

from experiments.studies import settings
from experiments.study import design

_SMALL = {
    "data.train_split": "train[:500]",
    "data.test_split": "test[:1000]",
    "data.image_size": 10,
    "data.pad": 1,
    "teacher.train_split": "train[:5000]",
    "teacher.epochs": 6,
    "train.epochs": 20,
}


def get_study(argument: str = "") -> design.Study:
    """See the module's docstring."""
    options = settings.read(argument)
    methods = tuple(name for name in options.named if name != "small")
    small = "small" in options.named
    every = settings.ALL_METHODS if small else settings.WIDER_TEACHER
    grid = design.Grid(
        name="methods",
        question="Which method makes the best student on Fashion-MNIST?",
        config="configs/fashion_mnist.py",
        argument="resnet20-resnet8" if small else options.smoke,
        fields=_SMALL if small else {},
        factors=(design.methods(*(methods or every)),),
        seeds=options.seeds(5),
        baseline="ce",
        measures=("predictions", "calibration", "alignment"),
    )
    about = (
        "Images of 10 pixels, so that a CPU is enough: resnet20 has seen 5 000, resnet8 gets 500."
        " Of the 1 000 test images, one is 0.1 points. These are not Fashion-MNIST's usual figures."
        if small
        else "10 000 of the training images, resnet32x4 to resnet8."
    )
    name = options.name("fashion_mnist_small" if small else "fashion_mnist")
    return design.Study(name, "Methods on Fashion-MNIST", (grid,), about=about)
