"""Checkpoints of runs and networks, with digests that detect damaged files."""

from rrd_jax.checkpoints.arrays import delete, exists, load_arrays, save_arrays
from rrd_jax.checkpoints.best_checkpoint import best, score, scores
from rrd_jax.checkpoints.digests import combine, digest, host_digest, leaf_sums
from rrd_jax.checkpoints.manager import Checkpoints, read_meta
from rrd_jax.checkpoints.network_checkpoint import load_objective, load_student, save_network

__all__ = [
    "Checkpoints",
    "best",
    "combine",
    "delete",
    "digest",
    "exists",
    "host_digest",
    "leaf_sums",
    "load_arrays",
    "load_objective",
    "load_student",
    "read_meta",
    "save_arrays",
    "save_network",
    "score",
    "scores",
]
