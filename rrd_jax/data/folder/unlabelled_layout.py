"""Sorts the images of a folder without labels into splits by their paths."""

import os
from collections.abc import Sequence

from rrd_jax import errors
from rrd_jax.data.folder import layout
from rrd_jax.data.folder.file_tree import File
from rrd_jax.data.folder.layout import Image, Layout, abbreviate
from rrd_jax.data.images.image_files import is_named_as_image


def choose(files: Sequence[File], limit: int | None) -> list[File]:
    """Returns all files, or at most `limit` images with the smallest hashes of their names.

    If files are added later, most of the selection stays unchanged.

    Args:
      files: files of the folder.
      limit: largest number of files; None for all.
    """
    if limit is None:
        return list(files)
    hash_key = layout.hasher("max_images")
    named = [file for file in files if is_named_as_image(file.path)] or list(files)
    return sorted(sorted(named, key=lambda file: hash_key(_key(file.path)))[:limit])


def arrange(root: str, paths: Sequence[str], *, needs_test: bool = True) -> Layout:
    """Sorts images into splits, with a tenth for testing by a hash of their paths.

    An image stays in its split when images are added. If all images are in folders named train,
    test or val, these folders are the splits.

    Args:
      root: the folder, for messages.
      paths: paths of the images, relative to the root.
      needs_test: whether a split "test" is needed.

    Raises:
      InputError: there are no images, or no test images.
    """
    if not paths:
        raise errors.InputError(
            f"image folder {root} has no images; name a folder that holds images, at any depth,"
            " with data.manual_dir"
        )
    images = [Image(index, _key(path), "") for index, path in enumerate(paths)]
    splits = _split_by_folder(images)
    if splits:
        note = f"{root} holds folders of splits: {abbreviate(sorted(splits))}"
    else:
        splits = layout.divide(images)
        note = (
            f"a tenth of the images of {root}, chosen by a hash of their names, is held out as"
            " split 'test'"
        )
    empty = [name for name in ("train", "test") if name in splits and not splits[name]]
    if empty and (empty != ["test"] or needs_test):
        raise errors.InputError(
            f"image folder {root} has {layout.image_count(len(paths))}, too few for a split"
            f" '{empty[0]}' (a tenth, chosen by a hash of their names, is for testing); add images"
        )
    splits = {split: layout.sort_by_hash(split, part) for split, part in splits.items()}
    return Layout(splits, (), [note], [])


def _key(path: str) -> bytes:
    return os.fsencode(path.replace(os.sep, "/"))


def _split_by_folder(images: Sequence[Image]) -> dict[str, list[Image]]:
    """Returns the images by split if all are in folders of splits, including train, else {}."""
    splits: dict[str, list[Image]] = {}
    for image in images:
        folder, slash, _ = os.fsdecode(image.key).partition("/")
        split = layout.SPLITS.get(folder.lower()) if slash else None
        if split is None:
            return {}
        splits.setdefault(split, []).append(image)
    return splits if "train" in splits and len(splits) > 1 else {}
