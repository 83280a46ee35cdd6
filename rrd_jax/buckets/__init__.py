"""Object storage: paths of buckets, reachability, retries, copies of folders, and leases."""

from rrd_jax.buckets import leases
from rrd_jax.buckets.locations import Location, is_bucket, parse, path, problem, require
from rrd_jax.buckets.patience import STARTING, TRAINING, patient
from rrd_jax.buckets.scratch import Mirror, local
from rrd_jax.buckets.transfer import check, delete, download, move, read, upload, write

__all__ = [
    "STARTING",
    "TRAINING",
    "Location",
    "Mirror",
    "check",
    "delete",
    "download",
    "is_bucket",
    "leases",
    "local",
    "move",
    "parse",
    "path",
    "patient",
    "problem",
    "read",
    "require",
    "upload",
    "write",
]
