"""What a run or a network leaves on disk, with digests that a changed byte does not pass."""

from rrd_jax.checkpoints.arrays import exists, load_arrays, save_arrays
from rrd_jax.checkpoints.best import score
from rrd_jax.checkpoints.digests import digest, host_digest
from rrd_jax.checkpoints.network import load_objective, load_student, save_network
from rrd_jax.checkpoints.run import Checkpoints, read_meta

__all__ = [
    "Checkpoints",
    "digest",
    "exists",
    "host_digest",
    "load_arrays",
    "load_objective",
    "load_student",
    "read_meta",
    "save_arrays",
    "save_network",
    "score",
]
