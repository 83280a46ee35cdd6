"""Search for the folders of runs by the names of their files, without opening files."""

import contextlib
import os
import re
from typing import NamedTuple

from rrd_jax import buckets

# The lock of a folder on this machine, and the lease of a folder in a bucket.
LOCKS = ("lock", "lease")
# Folders that belong to a run and never contain other runs.
_INNER = ("checkpoints", "measures", "profile", "tensorboard", "views")


class Folder(NamedTuple):
    """The folder of a run.

    Attributes:
      path: path of the folder.
      name: path relative to the folder that was searched; "." for the searched folder.
      role: "teacher", "alone" or "scratch" for such a run of a job, otherwise "student".
      files: names of the files and folders in the folder.
      parent: path of the run that contains this run; "" without one.
      objects: for a folder in a bucket, all objects of the run by their names in the folder,
        without those of other runs; None for a folder on this machine.
    """

    path: str
    name: str
    role: str
    files: frozenset[str]
    parent: str
    objects: dict[str, buckets.Entry] | None = None


def search(root: str) -> tuple[list[Folder], list[str]]:
    """Finds all runs in a folder and its subfolders.

    Each run is listed once. Symbolic links are followed last, so that a run below `root` is listed
    under its real path. Hidden folders, and links to folders that contain `root`, are skipped.

    Returns:
      The folders of runs, each before the runs that it contains, and the paths of folders that
      cannot be listed.
    """
    runs, unreadable, visited = [], [], set()
    home = os.path.realpath(root)
    pending, links = [(root, ".", "")], []
    while pending or links:
        path, name, parent = pending.pop() if pending else links.pop(0)
        real = os.path.realpath(path)
        contains_root = real != home and os.path.commonpath([real, home]) == real
        if real in visited or contains_root:
            continue
        visited.add(real)
        try:
            with os.scandir(path) as listing:
                entries = sorted(listing, key=lambda entry: entry.name, reverse=True)
        # The folder was deleted in the meantime.
        except FileNotFoundError:
            continue
        except OSError:
            unreadable.append(path)
            continue
        files = frozenset(entry.name for entry in entries)
        in_run = is_run(files)
        if in_run:
            runs.append(Folder(path, name, role(path, parent), files, parent))
        for entry in entries:
            if is_skipped(entry.name, in_run=in_run) or not _is_folder(entry):
                continue
            inner = entry.name if name == "." else f"{name}/{entry.name}"
            item = (entry.path, inner, path if in_run else parent)
            (links if entry.is_symlink() else pending).append(item)
    return runs, unreadable


def is_run(files: frozenset[str]) -> bool:
    """Returns True for the names of the files in the folder of a run."""
    has_lock = not files.isdisjoint(LOCKS)
    has_results = not files.isdisjoint(("metrics.jsonl", "checkpoints"))
    return (has_lock or has_results) if "config.json" in files else has_lock and has_results


def is_skipped(name: str, *, in_run: bool) -> bool:
    """Returns True for a subfolder that is not searched."""
    return name.startswith(".") or (in_run and name.startswith((*_INNER, "before-")))


def role(path: str, parent: str) -> str:
    """Returns the role of the run in a folder; see `Folder`."""
    above, name = os.path.split(path)
    # A study keeps its shared teachers in this folder.
    if os.path.basename(above) == "teachers":
        return "teacher"
    in_job = parent and re.fullmatch(r"(teacher|alone|scratch)\d*", name)
    return in_job[1] if in_job else "student"


def _is_folder(entry: os.DirEntry) -> bool:
    with contextlib.suppress(OSError):
        return entry.is_dir()
    return False


def size(path: str, excluded: frozenset[str]) -> int:
    """Returns the size of all files in a folder in bytes, without the excluded folders in it."""
    total = 0
    with contextlib.suppress(OSError), os.scandir(path) as listing:
        for entry in listing:
            if entry.is_dir(follow_symlinks=False):
                total += 0 if entry.path in excluded else size(entry.path, excluded)
            else:
                # The file may have been deleted in the meantime.
                with contextlib.suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_size
    return total
