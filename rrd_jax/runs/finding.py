"""Which folders below a folder hold runs, without opening a file."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator

# What a run keeps in folders of its own; no run lies in them.
_INNER = frozenset(("checkpoints", "measures", "profile", "tensorboard", "views"))
_SIGNS = ("lock", "metrics.jsonl", "checkpoints")  # what a run has beside its config.json


@dataclasses.dataclass
class Place:
    """The folder of a run.

    Attributes:
      path: of the folder.
      name: the path from the folder that was searched; "." for this itself.
      role: "student" for a run of its own, "teacher", "alone" and "scratch" for the others of a
        job, "stage" for what an objective trains before distillation.
      entries: what lies in the folder, by name.
      above: the run in whose folder it lies, None for none.
    """

    path: str
    name: str
    role: str
    entries: dict[str, os.DirEntry]
    above: "Place | None"


@dataclasses.dataclass
class Search:
    """What was found.

    Attributes:
      places: the folders of runs; a run comes before those in its folder.
      unreadable: paths of folders that may not be listed.
    """

    places: list[Place] = dataclasses.field(default_factory=list)
    unreadable: list[str] = dataclasses.field(default_factory=list)


def search(folder: str) -> Search:
    """Every run in a folder and below it, once.

    Links are followed after everything else, so that a run that lies below the folder too goes by
    its own name. What leads back above the folder is not followed, and hidden folders are not
    looked into.
    """
    result, seen = Search(), set()
    links: list[tuple[str, str, Place | None]] = []
    todo: list[tuple[str, str, Place | None]] = [(folder, ".", None)]
    home = os.path.realpath(folder)
    while todo or links:
        if not todo:
            path, name, above = links.pop(0)
            if _leads_above(path, home):
                continue
            todo.append((path, name, above))
        path, name, above = todo.pop()
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = _entries(path)
        except FileNotFoundError:  # removed since, or a link to nowhere
            continue
        except OSError:
            result.unreadable.append(path)
            continue
        place = _place(path, name, above, entries)
        if place:
            result.places.append(place)
        for entry in sorted(_folders(entries, place), key=lambda entry: entry.name, reverse=True):
            inner = entry.name if name == "." else f"{name}/{entry.name}"
            target = links if entry.is_symlink() else todo
            target.append((entry.path, inner, place))
    return result


def _leads_above(path: str, home: str) -> bool:
    target = os.path.realpath(path)
    return os.path.commonpath([target, home]) == target


def _entries(path: str) -> dict[str, os.DirEntry]:
    with os.scandir(path) as listed:
        return {entry.name: entry for entry in listed}


def _place(
    path: str, name: str, above: Place | None, entries: dict[str, os.DirEntry]
) -> Place | None:
    """The folder as that of a run, None where it has the looks of none."""
    own = os.path.basename(path)
    if above and own.startswith("before-") and ("metrics.jsonl" in entries or _INNER & {*entries}):
        return Place(path, name, "stage", entries, above)
    has_config = "config.json" in entries and any(sign in entries for sign in _SIGNS)
    lost_config = "lock" in entries and any(sign in entries for sign in _SIGNS[1:])
    if not has_config and not lost_config:
        return None
    if above and re.fullmatch(r"teacher\d*", own):
        role = "teacher"
    elif above and own in ("alone", "scratch"):
        role = own
    else:
        role = "teacher" if os.path.basename(os.path.dirname(path)) == "teachers" else "student"
    return Place(path, name, role, entries, above)


def _folders(entries: dict[str, os.DirEntry], place: Place | None) -> Iterator[os.DirEntry]:
    """The folders in which runs may lie."""
    for entry in entries.values():
        if entry.name.startswith(".") or (place and entry.name in _INNER):
            continue
        with contextlib.suppress(OSError):
            if entry.is_dir():
                yield entry


def size(place: Place, others: frozenset[str] = frozenset()) -> int:
    """The bytes of all files in a run's folder.

    Args:
      place: the folder.
      others: paths of runs that are counted for themselves.
    """
    total, todo = 0, [place.path]
    while todo:
        with contextlib.suppress(OSError), os.scandir(todo.pop()) as listed:
            for entry in listed:
                if entry.is_dir(follow_symlinks=False):
                    if entry.path not in others:
                        todo.append(entry.path)
                    continue
                with contextlib.suppress(OSError):  # removed since
                    total += entry.stat(follow_symlinks=False).st_size
    return total
