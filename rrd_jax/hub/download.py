"""Downloads of repositories to the cache of huggingface_hub."""

import functools
import os
import pathlib
from collections.abc import Sequence

from rrd_jax.hub import client
from rrd_jax.hub.names import Name


def snapshot(name: Name, patterns: Sequence[str], kind: str = "model") -> pathlib.Path:
    """Downloads the files of a repository that the cache lacks; returns their folder.

    The files of a commit that are in the cache are read without a network. A revision names the
    same commit during a process.

    Args:
      name: the repository; a commit takes precedence over a revision.
      patterns: patterns of the files' paths in the repository.
      kind: "model" or "dataset".

    Returns:
      The folder of the commit in the cache, which can have files that other programs downloaded.

    Raises:
      InputError: the repository is missing, gated or not reachable, or lacks the revision.
      UnavailableError: huggingface_hub is not installed.
    """
    return _snapshot(name, tuple(patterns), kind)


@functools.lru_cache(maxsize=64)
def _snapshot(name: Name, patterns: tuple[str, ...], kind: str) -> pathlib.Path:
    library = client.library(str(name))
    with client.one_line(str(name), name.revision or name.commit):
        folder = library.snapshot_download(
            name.repository,
            revision=name.commit or name.revision or None,
            repo_type=kind,
            allow_patterns=list(patterns),
        )
    return pathlib.Path(folder)


def commit_of(folder: pathlib.Path) -> str:
    """Returns the commit of a folder that `snapshot` has returned."""
    return folder.name


def scratch(folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder for files that belong to a folder that `snapshot` has returned.

    The cache of huggingface_hub, which verifies and deletes folders, is left as it is. Scratch
    folders are kept between starts, in XDG_CACHE_HOME or ~/.cache.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(home, "rrd_jax", "hub", folder.parents[1].name, folder.name)
