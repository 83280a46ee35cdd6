"""Recursive listing of a folder, which visits each subfolder once."""

import os
import stat
from typing import NamedTuple

from rrd_jax import errors
from rrd_jax.data.images.image_files import reason
from rrd_jax.terminal.long_search import LongSearch

# Files and folders created by operating systems. Some hold thumbnails of neighboring images.
_IGNORED_NAMES = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found", "Thumbs.db", "desktop.ini"}

_SYSTEM_FOLDERS = ("proc", "sys", "dev")


class File(NamedTuple):
    """A regular file, or a link to one.

    Attributes:
      path: path relative to the root; bytes that are not UTF-8 become Python's surrogates.
      size: size in bytes.
      modified: modification time of the content in nanoseconds.
      changed: time of the last change of content, name or permissions in nanoseconds.
    """

    path: str
    size: int
    modified: int
    changed: int


class Tree(NamedTuple):
    """The entries below a folder, except hidden ones.

    Attributes:
      files: regular files, sorted by path.
      folders: paths of all folders, sorted.
      skipped: (path, reason) of all other entries.
    """

    files: list[File]
    folders: list[str]
    skipped: list[tuple[str, str]]


def walk(root: str) -> Tree:
    """Lists a folder; links to folders are followed after all real folders.

    A search of more than five seconds is reported, and can be interrupted.

    Raises:
      InputError: a subfolder cannot be read, so an unknown number of images would be missing; or
        the folder belongs to the operating system.
    """
    real = os.path.realpath(root)
    if real == os.sep or real.split(os.sep)[1] in _SYSTEM_FOLDERS:
        raise errors.InputError(
            f"{display_path(root)} is a system folder, which is not searched for images; name the"
            " folder that holds the images"
        )
    tree, links = Tree([], [], []), []
    above = os.path.dirname(os.path.realpath(root))
    visited = {_identity(root): "the root"}
    # A link to a folder above the root would add files from outside the root.
    while True:
        visited[_identity(above)] = f"a folder above {display_path(root)}"
        if above == os.path.dirname(above):
            break
        above = os.path.dirname(above)
    search = LongSearch(display_path(root))
    _visit(root, "", visited, tree, links, search)
    while links:
        links.sort()
        path = links.pop(0)
        target = _visited_as(root, path, visited)
        if target is None:
            _visit(root, path, visited, tree, links, search)
        else:
            tree.skipped.append((path, f"a link to {target}, already read or outside the folder"))
    for part in tree:
        part.sort()
    return tree


def display_path(path: str) -> str:
    """Returns a path as one line of printable text for messages, for any encoding."""
    return errors.printable(os.fsencode(path).decode("utf-8", "backslashreplace"))


def _identity(path: str) -> tuple[int, int]:
    state = os.stat(path)
    return state.st_dev, state.st_ino


def _visited_as(root: str, path: str, visited: dict) -> str | None:
    """Returns the description of a link's target if the target was visited or is missing."""
    try:
        return visited.get(_identity(os.path.join(root, path)))
    except OSError:
        return "nothing"


def _visit(
    root: str, start: str, visited: dict, tree: Tree, links: list[str], search: LongSearch
) -> None:
    """Adds a folder and its real subfolders to the tree, and links to folders to `links`."""
    pending = [start]
    while pending:
        search.report(f"{len(tree.files):,} files in {len(tree.folders):,} folders")
        folder = pending.pop()
        path = os.path.join(root, folder)
        try:
            identity = _identity(path)
            # A folder may be mounted twice.
            if folder and visited.setdefault(identity, display_path(folder)) != display_path(
                folder
            ):
                continue
            if folder:
                tree.folders.append(folder)
            with os.scandir(path) as entries:
                for entry in entries:
                    if not entry.name.startswith(".") and entry.name not in _IGNORED_NAMES:
                        _add(entry, os.path.join(folder, entry.name), tree, pending, links)
        except OSError as error:
            raise errors.InputError(
                f"folder {display_path(path.rstrip(os.sep))} cannot be read ({reason(error)}); make"
                " it readable, or move it out of the image folder"
            ) from error


def _add(entry: os.DirEntry, path: str, tree: Tree, pending: list[str], links: list[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        pending.append(path)
        return
    try:
        state = entry.stat()
    except OSError as error:
        # If the entry is not a link, the folder can be listed, but its files cannot be accessed.
        if not entry.is_symlink():
            raise
        is_denied = isinstance(error, PermissionError)
        problem = "a link without permission" if is_denied else "a broken or circular link"
        tree.skipped.append((path, problem))
        return
    if stat.S_ISDIR(state.st_mode):
        links.append(path)
    elif stat.S_ISREG(state.st_mode):
        file = File(path, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        tree.files.append(file)
    else:
        tree.skipped.append((path, "a pipe, socket or device"))
