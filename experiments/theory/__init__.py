"""Curves of RRD's theory, each from the code itself and beside it from its formula in float64.

    for curves in (make() for make in theory.ALL):
        print(curves.title, curves.note)

The embeddings are made up, see `embeddings`; what holds of all is in the formulas and bounds. Loss
and limits: arXiv 2407.12073.
"""

from experiments.theory.embeddings import Embeddings, embeddings
from experiments.theory.figures import (
    ALL,
    Curves,
    Series,
    entropy_floor,
    gradient_against_temperature,
    infonce_limit,
    kl_at_equal_temperatures,
    loss_against_temperature,
)

__all__ = [
    "ALL",
    "Curves",
    "Embeddings",
    "Series",
    "embeddings",
    "entropy_floor",
    "gradient_against_temperature",
    "infonce_limit",
    "kl_at_equal_temperatures",
    "loss_against_temperature",
]
