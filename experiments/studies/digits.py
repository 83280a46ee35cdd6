"""scikit-learn's digits: every method, five seeds, on a CPU.

    python -m experiments.study --study=experiments/studies/digits.py --jobs=2
    python -m experiments.study --study=experiments/studies/digits.py:smoke

Behind the colon: `smoke` for the whole study in minutes, on random images; methods joined by a
comma for these alone, as in digits.py:ce,kd,rrd,rrd+kd.
"""

from experiments.studies import settings
from experiments.study import design


def get_study(argument: str = "") -> design.Study:
    """See the module's docstring."""
    options = settings.read(argument)
    return design.Study(
        name=options.name("digits"),
        title="Every method on handwritten digits",
        about="A good teacher and a small budget: resnet8x4 has seen all 1 000 training images of"
        " scikit-learn's digits, resnet8 the first 200 of them. 797 images are for testing: one of"
        " them is 0.13 points.",
        grids=(
            design.Grid(
                name="methods",
                question="Which method makes the best student on digits?",
                config="configs/digits.py",
                argument=options.smoke,
                factors=(design.methods(*(options.named or settings.ALL_METHODS)),),
                seeds=options.seeds(5),
                baseline="ce",
                measures=("predictions", "calibration", "alignment", "tsne"),
            ),
        ),
    )
