"""Comparison of all methods on scikit-learn's digits: five seeds, on a CPU.

    python -m experiments.study --study=experiments/studies/digits.py --jobs=2

Words after the colon: methods, to run only these, as in digits.py:ce,kd,rrd,rrd+kd; smoke, for a
few random images.
"""

from experiments.studies import settings
from experiments.study import design

ABOUT = (
    "A good teacher and a small budget: the teacher resnet8x4 is trained on all 1 000 training"
    " images of scikit-learn's digits, the student resnet8 on the first 200. One of the 797 test"
    " images is 0.13 points."
)


def get_study(argument: str = "") -> design.Study:
    """Returns the study; the module's docstring describes the argument."""
    options = settings.read(argument)
    grid = design.Grid(
        name="methods",
        question="Which method makes the best student on handwritten digits?",
        config="configs/digits.py",
        argument=options.smoke,
        factors=(design.methods(*(options.named or settings.WIDER_TEACHER)),),
        seeds=options.seeds(5),
        baseline="ce",
        measures=("predictions", "calibration", "alignment", "tsne"),
    )
    return design.Study(options.name("digits"), "Methods on digits", (grid,), about=ABOUT)
