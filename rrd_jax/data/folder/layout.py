"""Sorts the images of a folder into splits and classes by their paths."""

import collections
import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rrd_jax import errors
from rrd_jax.data import label_checks
from rrd_jax.data.folder.file_tree import display_path
from rrd_jax.data.label_checks import abbreviate

# Fraction of the images for testing if no folder defines a test split.
TEST_FRACTION = 0.1
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
}
# Common additions to the names of splits, such as train2017 and val_images.
_ADDED = re.compile(r"[\W\d_]+|images?|imgs?|data|set|split")
EXPECTED_LAYOUT = (
    "expected ROOT/CLASS/ with one folder of images per class, or ROOT/train/CLASS/ and optionally"
    " ROOT/test/CLASS/ or ROOT/val/CLASS/"
)


class Image(NamedTuple):
    """An image of a split.

    Attributes:
      index: index of the image's file.
      key: path relative to the folder that holds the classes, with slashes, as bytes.
      label: name of the class.
    """

    index: int
    key: bytes
    label: str


class Layout(NamedTuple):
    """The splits and classes of a folder of images.

    Attributes:
      splits: images of each split by name, ordered by a hash of their keys.
      classes: names of the classes, sorted.
      notes: automatic decisions for the user's information.
      warnings: likely mistakes.
    """

    splits: dict[str, list[Image]]
    classes: tuple[str, ...]
    notes: list[str]
    warnings: list[str]


def class_name(folder: str) -> str:
    """Returns the class name for the name of a folder."""
    # File systems use different Unicode normal forms.
    return unicodedata.normalize("NFC", display_path(folder))


def arrange(
    root: str, paths: Sequence[str], folders: Sequence[str], *, needs_test: bool = True
) -> Layout:
    """Sorts images into splits and classes.

    Args:
      root: the folder, for messages.
      paths: paths of the images, relative to the root.
      folders: paths of all folders, relative to the root.
      needs_test: whether a split "test" is needed; without a folder for testing, it is a part of
        the training images.

    Raises:
      InputError: the layout is invalid or ambiguous.
    """
    notes, warnings = [], []
    split_folders = _split_folders(root, paths, folders, notes)
    by_split, loose = collections.defaultdict(list), []
    for index, path in enumerate(paths):
        parts = path.split(os.sep)
        if len(parts) < (3 if split_folders else 2):
            loose.append(path)
            continue
        split = SPLITS[parts.pop(0).lower()] if split_folders else ""
        label = class_name(parts[0])
        by_split[split].append(Image(index, os.fsencode("/".join(parts)), label))
    _check_loose(root, paths, loose, split_folders, warnings)
    if split_folders:
        splits = {SPLITS[name.lower()]: by_split[SPLITS[name.lower()]] for name in split_folders}
        if set(splits) == {"train"} and needs_test:
            notes.append(
                f"{root} has no folder test or val next to {split_folders[0]}: a tenth of the"
                " images, chosen by a hash of their names, is held out as split 'test'"
            )
            splits = divide(splits["train"])
    else:
        _check_levels(root, paths)
        splits = divide(by_split[""])
    classes = _classes(root, splits, warnings, needs_test=needs_test)
    if all(map(str.isdecimal, classes)) and list(classes) != sorted(classes, key=int):
        index = next(i for i, name in enumerate(sorted(classes, key=int)) if name != classes[i])
        notes.append(
            f"classes are in alphabetical order, as in torchvision: label {index} is class"
            f" '{classes[index]}'; name the folders 01, 02, ... for numerical order"
        )
    if empty := _empty_folders(split_folders, folders, classes):
        warnings.append(f"{root}: folders without images are ignored: {abbreviate(empty)}")
    sorted_splits = {split: sort_by_hash(split, images) for split, images in splits.items()}
    return Layout(sorted_splits, classes, notes, warnings)


def hasher(salt: str) -> Callable[[bytes], int]:
    """Returns the hash function that TFDS shuffles keys by: (key) -> 128-bit integer."""
    start = hashlib.md5(salt.encode(), usedforsecurity=False)

    def hash_key(key: bytes) -> int:
        digest = start.copy()
        digest.update(key)
        return int(digest.hexdigest(), 16)

    return hash_key


def image_count(number: int) -> str:
    """Returns a number of images with its noun, such as "1 image" or "2 images"."""
    return f"{number:,} image{'' if number == 1 else 's'}"


def _split_folders(
    root: str, paths: Sequence[str], folders: Sequence[str], notes: list[str]
) -> list[str]:
    """Returns the top-level folders that are splits; an empty list if all are classes."""
    top = sorted(folder for folder in folders if os.sep not in folder)
    # Depths of the images in each top-level folder: 2 for files directly inside, 3 for deeper ones.
    depths = collections.defaultdict(set)
    for path in paths:
        parts = path.split(os.sep)
        depths[parts[0]].add(min(len(parts), 3))
    named = [folder for folder in top if folder.lower() in SPLITS]
    others = [folder for folder in top if folder not in named and depths[folder]]
    if not named:
        return []
    if others and all(3 not in depths[folder] for folder in named):
        if any(depths[folder] for folder in named):
            notes.append(
                f"{root} holds class folders: {abbreviate(named)} is also used as a class because"
                " it has no subfolders"
            )
        return []
    if others:
        raise errors.InputError(
            f"image folder {root} has folders of splits"
            f" ({abbreviate(list(map(display_path, named)))}) next to other folders"
            f" ({abbreviate(list(map(display_path, others)))}); {EXPECTED_LAYOUT}; move the other"
            " folders away, or into train"
        )
    named_splits = [SPLITS[folder.lower()] for folder in named]
    if "train" not in named_splits or len(set(named_splits)) < len(named_splits):
        raise errors.InputError(
            f"image folder {root} has {', '.join(named)}; it must have train, optionally test and"
            " one of val, valid, validation and dev, each with one folder of images per class; or"
            " only the folders of the classes"
        )
    return named


def _check_loose(
    root: str, paths: Sequence[str], loose: list[str], splits: list[str], warnings: list[str]
) -> None:
    """Adds a warning about images outside class folders; raises an InputError if all are."""
    if not loose:
        return
    names = abbreviate([display_path(path) for path in loose], 3)
    within = f"each of {', '.join(splits)}" if splits else "it"
    if len(loose) == len(paths):
        higher = "" if splits else "; if it is the folder of one class, name its parent folder"
        raise errors.InputError(
            f"image folder {root} has {image_count(len(loose))} ({names}), but none in the folder"
            f" of a class: {within} must hold one folder per class{higher}; to train without labels"
            " on images at any depth, set data.use_labels=False"
        )
    warnings.append(
        f"{root}: images outside class folders are not used: {image_count(len(loose))} ({names})"
    )


def _check_levels(root: str, paths: Sequence[str]) -> None:
    """Raises an InputError if class folders hold splits, as in ROOT/x/train or ROOT/class/train."""
    inner = collections.defaultdict(set)
    for path in paths:
        parts = path.split(os.sep)
        if len(parts) > 2 and parts[1].lower() in SPLITS:
            inner[parts[0]].add(parts[1])
    for folder, names in sorted(inner.items()):
        if "train" in {SPLITS[name.lower()] for name in names}:
            alone = f"; is it {os.path.join(root, folder)}?" if len(inner) == 1 else ""
            raise errors.InputError(
                f"image folder {root} has {', '.join(sorted(names))} in {display_path(folder)}, one"
                f" level too low; {EXPECTED_LAYOUT}{alone}"
            )


def divide(images: Sequence[Image]) -> dict[str, list[Image]]:
    """Returns splits "train" and "test", with a tenth of the images by a hash of their keys."""
    hash_key = hasher("image_folder")
    splits: dict[str, list[Image]] = {"train": [], "test": []}
    for image in images:
        is_test = hash_key(image.key) / 2**128 < TEST_FRACTION
        splits["test" if is_test else "train"].append(image)
    return splits


def sort_by_hash(split: str, images: Sequence[Image]) -> list[Image]:
    """Returns the images of a split, ordered by a hash of their keys."""
    hash_key = hasher(split)
    return sorted(images, key=lambda image: (hash_key(image.key), image.key))


def _classes(
    root: str, splits: Mapping[str, list[Image]], warnings: list[str], *, needs_test: bool
) -> tuple[str, ...]:
    """Returns the classes of the training images, in alphabetical order."""
    by_split = {split: {image.label for image in images} for split, images in splits.items()}
    classes = sorted(by_split["train"])
    if len(classes) == 1:
        raise errors.InputError(
            f"image folder {root} has only one class, '{classes[0]}', but needs at least two: is"
            f" ROOT one level too high or too low? {EXPECTED_LAYOUT}"
        )
    split_names = {SPLITS.get(_ADDED.sub("", name.lower())) for name in classes}
    if "train" in split_names and None not in split_names:
        raise errors.InputError(
            f"image folder {root} has folders {abbreviate(classes)}, which look like splits, not"
            f" classes; {EXPECTED_LAYOUT}"
        )
    for split, labels in by_split.items():
        if not labels and (split == "train" or (split == "test" and needs_test)):
            total = sum(map(len, splits.values()))
            cause = " (too few images for a held-out tenth)" if total else ""
            raise errors.InputError(
                f"image folder {root} has no images for split '{split}'{cause}; {EXPECTED_LAYOUT}"
            )
    for split, labels in by_split.items():
        if unknown := labels - set(classes):
            name = min(unknown)
            raise errors.InputError(
                f"image folder {root} has class '{name}' in split '{split}', but no training images"
                f" of this class; {errors.hint(name, classes)}{len(classes)} classes are in train:"
                f" {abbreviate(classes)}"
            )
        if missing := sorted(set(classes) - labels):
            warnings.append(
                label_checks.missing_classes(split, missing, len(missing), len(classes))
            )
    return tuple(classes)


def _empty_folders(
    split_folders: Sequence[str], folders: Sequence[str], classes: Sequence[str]
) -> list[str]:
    """Returns the folders at the level of classes that hold no images."""
    depth, names_of_classes = 2 if split_folders else 1, set(classes)
    parts = [(folder, folder.split(os.sep)) for folder in folders]
    return [
        display_path(folder)
        for folder, names in parts
        if len(names) == depth and class_name(names[-1]) not in names_of_classes
    ]
