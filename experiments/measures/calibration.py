"""Calibration of student and teacher."""

import numpy as np

from experiments.measures.outputs import RunOutputs
from rrd_jax.evaluation import calibration


def compute(outputs: RunOutputs) -> dict[str, np.ndarray | float]:
    """Computes the metrics of `evaluation.calibration.measure` for each network.

    Returns:
      edges: [16], the edges of the bins.
      For student and teacher, the metrics with the role as a prefix, such as "student_ece".
    """
    values: dict[str, np.ndarray | float] = {"edges": np.linspace(0, 1, calibration.BINS + 1)}
    for role, network in outputs.classifiers:
        results = calibration.measure(network.logits, outputs.labels)
        values |= {f"{role}_{name}": value for name, value in results.items()}
    return values
