"""Resolves the image files that a user names as files, folders or unexpanded patterns."""

import codecs
import glob
import os
from collections.abc import Iterable

from rrd_jax import errors, user_paths
from rrd_jax.data.folder import file_tree
from rrd_jax.data.images import image_files

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def files(names: Iterable[str]) -> list[str]:
    """Returns the paths of image files in the order of `names`; files in a folder are sorted.

    Folders are searched recursively for files that are images by suffix or by their first bytes.
    A file named directly is always included, even if the file does not exist: the error is
    reported when the file is read.

    Args:
      names: files, folders, or patterns with *, ? or **.

    Raises:
      InputError: no image was found, a pattern matches no file, or a folder cannot be read.
    """
    names, paths = list(names), []
    for name in names:
        for path in _expanded(name):
            paths += _in_folder(path) if os.path.isdir(path) else [path]
    if not any(map(os.path.lexists, paths)):
        raise errors.InputError(_describe_missing(names))
    return paths


def parse_names(content: bytes) -> list[str]:
    """Returns the names in a list, separated by null bytes if it has any, otherwise by lines.

    Raises:
      InputError: the list is too long, or in UTF-16 without a byte order mark.
    """
    if len(content) > user_paths.LARGEST_TEXT:
        raise errors.InputError(
            f"the list of names has more than {user_paths.LARGEST_TEXT >> 20} MiB; name folders"
        )
    if content.startswith(_UTF_16):
        try:
            content = user_paths.decode(content).encode()
        except ValueError as error:
            raise errors.InputError(
                f"the list of names is not valid UTF-16 ({error}); convert it to UTF-8"
            ) from error
    content = content.removeprefix(codecs.BOM_UTF8)
    if b"\0" in content:
        parts = content.split(b"\0")
        if max(map(len, parts)) == 1 and not all(map(os.path.lexists, filter(None, parts))):
            raise errors.InputError(
                "the list of names is in UTF-16 without a byte order mark; convert it to UTF-8"
            )
    else:
        parts = [line.removesuffix(b"\r") for line in content.split(b"\n")]
    return [os.fsdecode(part) for part in parts if part]


def split_names(text: str) -> list[str]:
    """Splits a list of files, folders and patterns at its commas.

    Existing names may contain commas: the longest existing name is taken first.
    """
    parts, names = text.split(","), []
    while parts:
        candidates = (",".join(parts[:count]) for count in range(len(parts), 1, -1))
        name = next(filter(_exists, candidates), parts[0])
        parts = parts[name.count(",") + 1 :]
        names.append(name)
    return list(filter(None, names))


def _exists(name: str) -> bool:
    name = user_paths.expanded(name)
    return os.path.lexists(name) or (glob.has_magic(name) and bool(glob.glob(name, recursive=True)))


def _expanded(name: str) -> list[str]:
    if problem := user_paths.url_problem(name):
        raise errors.FieldError(f"an image is '{file_tree.display_path(name)}', {problem}")
    name = user_paths.expanded(name)
    if not glob.has_magic(name) or os.path.lexists(name):
        return [name]
    if matches := sorted(glob.glob(name, recursive=True)):
        return matches
    raise errors.InputError(f"no file matches '{file_tree.display_path(name)}'")


def _in_folder(folder: str) -> list[str]:
    """Returns the images in a folder, including broken links, which fail when they are read."""
    tree = file_tree.walk(folder)
    names = sorted([file.path for file in tree.files] + [path for path, _ in tree.skipped])
    paths = (os.path.join(folder, name) for name in names)
    return [
        path for path in paths if not os.path.isdir(path) and image_files.is_meant_as_image(path)
    ]


def _describe_missing(names: list[str]) -> str:
    if not names:
        return "no images given; name files or folders"
    missing = [name for name in names if not os.path.lexists(name)]
    if missing:
        return f"'{file_tree.display_path(missing[0])}' does not exist"
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"no images in {file_tree.display_path(names[0])}{more}"
