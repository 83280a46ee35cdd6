"""The formulas in float64, without the code they are compared with; means over the images.

All take Embeddings, whose float32 values are the code's; p_s and p_t are the relations of student
and teacher to the memory, softmax_k(z . m_k / tau).
"""

import numpy as np
from scipy import special

from experiments.theory.embeddings import Embeddings


def loss(given: Embeddings, tau_s: float, tau_t: float) -> float:
    """- sum_k p_t(k) log p_s(k)."""
    log_s, log_t = _log_relations(given, tau_s, tau_t)
    return float(-(np.exp(log_t) * log_s).sum(-1).mean())


def entropy(given: Embeddings, tau_t: float) -> float:
    """- sum_k p_t(k) log p_t(k)."""
    _, log_t = _log_relations(given, tau_t, tau_t)
    return float(special.entr(np.exp(log_t)).sum(-1).mean())


def divergence(given: Embeddings, tau: float) -> float:
    """sum_k p_t(k) log (p_t(k) / p_s(k)), of one temperature."""
    log_s, log_t = _log_relations(given, tau, tau)
    return float(special.rel_entr(np.exp(log_t), np.exp(log_s)).sum(-1).mean())


def gradient(given: Embeddings, tau_s: float, tau_t: float) -> float:
    """The length of (1 / tau_s) sum_k (p_s(k) - p_t(k)) m_k."""
    log_s, log_t = _log_relations(given, tau_s, tau_t)
    direction = (np.exp(log_s) - np.exp(log_t)) @ given.memory.astype(np.float64) / tau_s
    return float(np.linalg.norm(direction, axis=-1).mean())


def infonce(given: Embeddings, tau_s: float) -> float:
    """- log p_s(own key), where the i-th row of the memory is the own key of the i-th image."""
    log_s, _ = _log_relations(given, tau_s, tau_s)
    return float(-np.diagonal(log_s).mean())


def _log_relations(given: Embeddings, tau_s: float, tau_t: float) -> tuple[np.ndarray, np.ndarray]:
    """log p_s and log p_t, [B, K]."""
    student, teacher, memory = (array.astype(np.float64) for array in given)
    return (
        special.log_softmax(student @ memory.T / tau_s, axis=-1),
        special.log_softmax(teacher @ memory.T / tau_t, axis=-1),
    )
