"""What the loss is in its limits: curves from the code itself, in seconds, without any run.

python -m experiments.study --study=experiments/studies/theory.py
python -m experiments.page --study=runs/study-theory --output=theory.html
"""

from experiments import theory
from experiments.study import design


def get_study(argument: str = "") -> design.Study:
    """See the module's docstring; smoke behind the colon is the same."""
    del argument
    return design.Study(
        "theory",
        "RRD in its limits",
        calculations=theory.ALL,
        about="Each curve is what rrd_jax.relational_loss computes in float32, beside the formula"
        " in float64.",
    )
