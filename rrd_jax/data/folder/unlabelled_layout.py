"""Splits of a folder whose images have no labels and lie anywhere in it. Functions of paths."""

import os
from collections.abc import Sequence

from rrd_jax import errors
from rrd_jax.data.folder import layout
from rrd_jax.data.folder.file_tree import File
from rrd_jax.data.folder.layout import Image, Layout, listed
from rrd_jax.data.images.image_files import is_named_as_image


def choose(files: Sequence[File], most: int | None) -> list[File]:
    """Returns the files that are used: all, or at most `most` images by a hash of their names.

    Files that are added later only replace some of the chosen ones.

    Args:
      files: files of the folder.
      most: number of files; None for all.
    """
    if most is None:
        return list(files)
    hash_key = layout.hasher("max_images")
    named = [file for file in files if is_named_as_image(file.path)] or list(files)
    return sorted(sorted(named, key=lambda file: hash_key(_key(file.path)))[:most])


def arrange(root: str, paths: Sequence[str], *, wants_test: bool = True) -> Layout:
    """Sorts images into splits: a tenth is for testing, by a hash of their paths.

    An image stays in its split when others are added. If all images lie in a folder train and in
    folders test or val, those are the splits.

    Args:
      root: the folder, for messages.
      paths: paths of the images, below the root.
      wants_test: whether a split "test" is needed.

    Raises:
      InputError: there are no images, or none to test on.
    """
    if not paths:
        raise errors.InputError(
            f"image folder {root} has no images: name a folder that holds some, at any depth, with"
            " data.manual_dir"
        )
    images = [Image(place, _key(path), "") for place, path in enumerate(paths)]
    splits = _split_by_folder(images)
    if splits:
        note = f"{root} holds folders of splits: {listed(sorted(splits))}"
    else:
        splits = layout.divide(images)
        note = (
            f"a tenth of the images of {root}, chosen by a hash of their names, is split 'test' and"
            " is not trained on"
        )
    empty = [name for name in ("train", "test") if name in splits and not splits[name]]
    if empty and (empty != ["test"] or wants_test):
        raise errors.InputError(
            f"image folder {root} has {layout.counted(len(paths))}, too few for a split"
            f" '{empty[0]}' (a tenth, chosen by a hash of their names, is for testing): add images"
        )
    splits = {split: layout.ordered(split, part) for split, part in splits.items()}
    return Layout(splits, (), [note], [])


def _key(path: str) -> bytes:
    return os.fsencode(path.replace(os.sep, "/"))


def _split_by_folder(images: Sequence[Image]) -> dict[str, list[Image]]:
    """Returns the images by split if each lies in the folder of a split, train among them."""
    splits: dict[str, list[Image]] = {}
    for image in images:
        folder, slash, _ = os.fsdecode(image.key).partition("/")
        split = layout.SPLITS.get(folder.lower()) if slash else None
        if split is None:
            return {}
        splits.setdefault(split, []).append(image)
    return splits if "train" in splits and len(splits) > 1 else {}
