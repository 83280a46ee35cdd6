"""How far the relations of images move when a network computes with other rounding."""

from typing import NamedTuple

import numpy as np

TEMPERATURES = (0.1, 0.02)  # of the teacher, in RRD's presets
NEIGHBOURS = 10
COLUMNS = [
    "top-1, % (float32, bfloat16)",
    "other class",
    "similarity moves by (mean, most)",
    "nearest is the same",
    f"of {NEIGHBOURS} nearest, the same",
    *(f"tau {tau}: divergence, of an entropy of (nats)" for tau in TEMPERATURES),
]


class Answers(NamedTuple):
    """What a network says of N images and of K others.

    Attributes:
      logits: [N, C].
      embedding: [N, D].
      memory: [K, D], embeddings.
    """

    logits: np.ndarray
    embedding: np.ndarray
    memory: np.ndarray


def compare(exact: Answers, rough: Answers, labels: np.ndarray) -> list[str]:
    """A value of each of COLUMNS; labels are [N]."""
    classes = exact.logits.argmax(1), rough.logits.argmax(1)
    hits = [f"{100 * (found == labels).mean():.2f}" for found in classes]
    near, far = similarities(exact), similarities(rough)
    moved = np.abs(far - near)
    order = [np.argsort(-s, axis=1)[:, :NEIGHBOURS] for s in (near, far)]
    same = np.mean([len(np.intersect1d(a, b)) for a, b in zip(*order, strict=True)]) / NEIGHBOURS
    row = [
        ", ".join(hits),
        f"{100 * (classes[0] != classes[1]).mean():.2f} %",
        f"{moved.mean():.1e}, {moved.max():.1e}",
        f"{100 * (order[0][:, 0] == order[1][:, 0]).mean():.1f} %",
        f"{100 * same:.1f} %",
    ]
    for tau in TEMPERATURES:
        divergence, entropy = of_softmaxes(near / tau, far / tau)
        row.append(f"{divergence:.1e}, {entropy:.2f}")
    return row


def similarities(answers: Answers) -> np.ndarray:
    """Cosines [N, K] of each image's embedding and those of the memory."""
    rows = [
        part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
        for part in (answers.embedding.astype(np.float64), answers.memory.astype(np.float64))
    ]
    return rows[0] @ rows[1].T


def of_softmaxes(exact: np.ndarray, rough: np.ndarray) -> tuple[float, float]:
    """Means over rows of the Kullback-Leibler divergence of two softmaxes, and of an entropy.

    Args:
      exact: [N, K] logits of p.
      rough: [N, K] logits of q.

    Returns:
      sum p log (p / q), and - sum p log p, in nats.
    """
    logs = [x - np.logaddexp.reduce(x, axis=1, keepdims=True) for x in (exact, rough)]
    shares = np.exp(logs[0])
    divergence = (shares * (logs[0] - logs[1])).sum(1).mean()
    return float(divergence), float(-(shares * logs[0]).sum(1).mean())
