"""What lies in a folder and the folders in it, each of them visited once."""

import os
import stat
from typing import NamedTuple

from rrd_jax import errors
from rrd_jax.data.images.image_files import reason

# What systems leave behind; the images in some of them are thumbnails of those beside.
_SILENT = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found", "Thumbs.db", "desktop.ini"}


class File(NamedTuple):
    """A regular file, or a link to one.

    Attributes:
      path: below the root; bytes that are not UTF-8 are surrogates, as Python has them.
      size: in bytes.
      modified: when, in nanoseconds.
      changed: when it, or its name or rights, in nanoseconds.
    """

    path: str
    size: int
    modified: int
    changed: int


class Tree(NamedTuple):
    """A folder and what is below it, but for hidden names.

    Attributes:
      files: sorted by path.
      folders: the paths of all folders, sorted.
      skipped: path and reason of what is neither.
    """

    files: list[File]
    folders: list[str]
    skipped: list[tuple[str, str]]


def walk(root: str) -> Tree:
    """Lists a folder. Links are followed after all that is there itself.

    Raises:
      InputError: a folder in it cannot be read: nobody knows how many images are missing then.
    """
    tree, links = Tree([], [], []), []
    above = os.path.dirname(os.path.realpath(root))
    visited = {_identity(root): "the root"}
    while True:  # a link to a folder above would bring in the root's neighbours
        visited[_identity(above)] = f"a folder above {shown(root)}"
        if above == os.path.dirname(above):
            break
        above = os.path.dirname(above)
    _visit(root, "", visited, tree, links)
    while links:
        links.sort()
        path = links.pop(0)
        first = _first(root, path, visited)
        if first is None:
            _visit(root, path, visited, tree, links)
        else:
            tree.skipped.append((path, f"a link to {first}, which is read already or outside"))
    for part in tree:
        part.sort()
    return tree


def shown(path: str) -> str:
    """A path for messages: without line ends, and whatever its encoding is."""
    return errors.printable(os.fsencode(path).decode("utf-8", "backslashreplace"))


def _identity(path: str) -> tuple[int, int]:
    state = os.stat(path)
    return state.st_dev, state.st_ino


def _first(root: str, path: str, visited: dict) -> str | None:
    """What a link leads to, if that is known already."""
    try:
        return visited.get(_identity(os.path.join(root, path)))
    except OSError:
        return "nothing"


def _visit(root: str, start: str, visited: dict, tree: Tree, links: list[str]) -> None:
    """Adds a folder and the real folders in it; links to folders are left for later."""
    pending = [start]
    while pending:
        folder = pending.pop()
        path = os.path.join(root, folder)
        try:
            identity = _identity(path)
            if folder and visited.setdefault(identity, shown(folder)) != shown(folder):
                continue  # mounted twice
            if folder:
                tree.folders.append(folder)
            with os.scandir(path) as entries:
                for entry in entries:
                    if not entry.name.startswith(".") and entry.name not in _SILENT:
                        _add(entry, os.path.join(folder, entry.name), tree, pending, links)
        except OSError as error:
            raise errors.InputError(
                f"folder {shown(path.rstrip(os.sep))} cannot be read ({reason(error)}), and nobody"
                " knows what images are in it: make it readable, or move it away"
            ) from error


def _add(entry: os.DirEntry, path: str, tree: Tree, pending: list[str], links: list[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        pending.append(path)
        return
    try:
        state = entry.stat()
    except OSError as error:
        if not entry.is_symlink():  # the folder's names may be read, but not what they name
            raise
        is_closed = isinstance(error, PermissionError)
        why = "a link, permission denied" if is_closed else "a link to nothing, or to itself"
        tree.skipped.append((path, why))
        return
    if stat.S_ISDIR(state.st_mode):
        links.append(path)
    elif stat.S_ISREG(state.st_mode):
        file = File(path, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        tree.files.append(file)
    else:
        tree.skipped.append((path, "a pipe, socket or device"))
