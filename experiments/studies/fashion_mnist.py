"""Comparison of all methods on Fashion-MNIST: five seeds, 10 000 images, on an accelerator.

    apt-get install dataset-fashion-mnist
    python -m experiments.study --study=experiments/studies/fashion_mnist.py --jobs=4

Words after the colon: methods, to run only these, as in fashion_mnist.py:ce,rrd+kd; small, for
images of 10 pixels, 500 for the student and 1 000 for testing, which takes an hour on two CPU
cores; smoke, for a few random images.
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
    """Returns the study; the module's docstring describes the argument."""
    options = settings.read(argument)
    methods = tuple(name for name in options.named if name != "small")
    small = "small" in options.named
    default = settings.ALL_METHODS if small else settings.WIDER_TEACHER
    grid = design.Grid(
        name="methods",
        question="Which method makes the best student on Fashion-MNIST?",
        config="configs/fashion_mnist.py",
        argument="resnet20-resnet8" if small else options.smoke,
        fields=_SMALL if small else {},
        factors=(design.methods(*(methods or default)),),
        seeds=options.seeds(5),
        baseline="ce",
        measures=("predictions", "calibration", "alignment"),
    )
    about = (
        "Images of 10 pixels, for a CPU: resnet20 is trained on 5 000 images, resnet8 on 500."
        " One of the 1 000 test images is 0.1 points. Results are not comparable with published"
        " results."
        if small
        else "10 000 training images, resnet32x4 to resnet8."
    )
    name = options.name("fashion_mnist_small" if small else "fashion_mnist")
    return design.Study(name, "Methods on Fashion-MNIST", (grid,), about=about)
