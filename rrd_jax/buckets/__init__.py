"""Object storage: paths of buckets, reachability, retries, copies of folders, and leases."""

from rrd_jax.buckets import leases
from rrd_jax.buckets.locations import Location, is_bucket, parse, path, problem, require
from rrd_jax.buckets.patience import STARTING, TRAINING, patient
from rrd_jax.buckets.scratch import Mirror, cache, local
from rrd_jax.buckets.transfer import (
    Entry,
    check,
    copying,
    delete,
    download,
    download_file,
    entries,
    move,
    read,
    upload,
    write,
)

__all__ = [
    "STARTING",
    "TRAINING",
    "Entry",
    "Location",
    "Mirror",
    "cache",
    "check",
    "copying",
    "delete",
    "download",
    "download_file",
    "entries",
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
