"""The Hugging Face Hub: names of repositories, downloads to the cache, and uploads."""

from rrd_jax.hub.download import commit_of, scratch, snapshot
from rrd_jax.hub.names import PREFIX, Name, is_name, parse, pinned, problem
from rrd_jax.hub.upload import check_push, push

__all__ = [
    "PREFIX",
    "Name",
    "check_push",
    "commit_of",
    "is_name",
    "parse",
    "pinned",
    "problem",
    "push",
    "scratch",
    "snapshot",
]
