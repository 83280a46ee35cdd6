"""Downloads of repositories to the cache of huggingface_hub."""

import functools
import os
import pathlib
from collections.abc import Sequence

from rrd_jax import errors
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
        folder = client.retried(
            lambda: library.snapshot_download(
                name.repository,
                revision=name.commit or name.revision or None,
                repo_type=kind,
                allow_patterns=list(patterns),
            )
        )
    if kind == "dataset":
        _check_listed(name, pathlib.Path(folder))
    return pathlib.Path(folder)


def _check_listed(name: Name, folder: pathlib.Path) -> None:
    """Raises an HubError if a folder in the cache may lack files, which a network would show.

    huggingface_hub compares a folder with the list of the commit's files. The list is missing if
    another program has downloaded single files. Networks name the files that they consist of, but
    a data set without a file of a split is a smaller data set.
    """
    if not (folder.parents[1] / "trees" / f"{commit_of(folder)}.json").is_file():
        raise errors.HubError(
            f"{name} is in the cache without the list of its files, so that some may be missing;"
            " download it once with a network and huggingface_hub 1.22 or later"
        )


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
