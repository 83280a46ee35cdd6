"""scikit-learn's digits: every method, five seeds, on a CPU.

    python -m experiments.study --study=experiments/studies/digits.py --jobs=2

Behind the colon: methods, for these alone, as in digits.py:ce,kd,rrd,rrd+kd; smoke for the same on
a few random images.
"""

from experiments.studies import settings
from experiments.study import design

ABOUT = (
    "A good teacher and a small budget: resnet8x4 has seen all 1 000 training images of"
    " scikit-learn's digits, resnet8 gets the first 200 of them. Of the 797 test images, one is"
    " 0.13 points."
)


def get_study(argument: str = "") -> design.Study:
    """See the module's docstring."""
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
