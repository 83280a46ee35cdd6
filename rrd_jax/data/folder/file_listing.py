"""Image files as a user names them: files, folders, patterns that no shell expanded."""

import glob
import os
from collections.abc import Iterable

from rrd_jax import errors
from rrd_jax.data.folder import file_tree
from rrd_jax.data.images import image_files


def files(names: Iterable[str]) -> list[str]:
    """The paths of image files, in the order of the names; a folder's are sorted.

    Of a folder, and the folders in it, the files count that are images by their name or by their
    first bytes. A file that is named itself always counts, even where it is not there: whoever
    reads it says so.

    Args:
      names: files, folders, or patterns with *, ? or **.

    Raises:
      InputError: there is no image, a pattern fits nothing, or a folder cannot be read.
    """
    names, paths = list(names), []
    for name in names:
        for path in _expanded(name):
            paths += _in_folder(path) if os.path.isdir(path) else [path]
    if not any(map(os.path.lexists, paths)):
        raise errors.InputError(_nothing(names))
    return paths


def parsed(content: bytes) -> list[str]:
    """The names in a list: separated by zeros if there are any, otherwise one a line."""
    if b"\0" in content:
        parts = content.split(b"\0")
    else:
        parts = [line.removesuffix(b"\r") for line in content.split(b"\n")]
    return [os.fsdecode(part) for part in parts if part]


def _expanded(name: str) -> list[str]:
    if not glob.has_magic(name) or os.path.lexists(name):
        return [name]
    if matches := sorted(glob.glob(name, recursive=True)):
        return matches
    raise errors.InputError(f"no file matches '{file_tree.shown(name)}'")


def _in_folder(folder: str) -> list[str]:
    """Images in a folder, among them links to images that are gone: whoever reads them says so."""
    tree = file_tree.walk(folder)
    names = sorted([file.path for file in tree.files] + [path for path, _ in tree.skipped])
    paths = (os.path.join(folder, name) for name in names)
    return [
        path for path in paths if not os.path.isdir(path) and image_files.is_meant_as_image(path)
    ]


def _nothing(names: list[str]) -> str:
    if not names:
        return "there are no images: name files or folders"
    missing = [name for name in names if not os.path.lexists(name)]
    if missing:
        return f"there is no '{file_tree.shown(missing[0])}'"
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"there are no images in {file_tree.shown(names[0])}{more}"
