"""Sorts the images of a folder into splits and classes. Functions of paths."""

import collections
import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rrd_jax import errors
from rrd_jax.data.folder.file_tree import shown

TEST_FRACTION = 0.1  # of the images, where no folder says which are for testing
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
}
# What people add to the names of splits, as in train2017 and val_images.
_ADDED = re.compile(r"[\W\d_]+|images?|imgs?|data|set|split")
WANTED = (
    "ROOT holds a folder of images for each class, or train with such folders, and beside it test"
    " or val"
)


class Image(NamedTuple):
    """An image in its split.

    Attributes:
      place: index of its file.
      key: its path below the folder of classes, with slashes, as bytes.
      label: name of its class.
    """

    place: int
    key: bytes
    label: str


class Layout(NamedTuple):
    """The images of a folder.

    Attributes:
      splits: images by name of the split, in the order of a hash of their keys.
      classes: names of the classes, sorted.
      notes: decisions that need no change.
      warnings: doubtful findings.
    """

    splits: dict[str, list[Image]]
    classes: tuple[str, ...]
    notes: list[str]
    warnings: list[str]


def class_name(folder: str) -> str:
    """Returns the name of the class whose images are in a folder of that name."""
    # File systems differ in their normal form of Unicode.
    return unicodedata.normalize("NFC", shown(folder))


def arrange(
    root: str, paths: Sequence[str], folders: Sequence[str], *, wants_test: bool = True
) -> Layout:
    """Sorts images into splits and classes.

    Args:
      root: for messages.
      paths: paths of the images, below the root.
      folders: paths of all folders, below the root.
      wants_test: whether a split "test" is needed; it is taken from train/ if there is no other.

    Raises:
      InputError: a layout that can be read in no way, or in two.
    """
    notes, warnings = [], []
    split_folders = _split_folders(root, paths, folders, notes)
    by_split, loose = collections.defaultdict(list), []
    for place, path in enumerate(paths):
        parts = path.split(os.sep)
        split = SPLITS[parts.pop(0).lower()] if split_folders else ""
        if len(parts) == 1:
            loose.append(path)
            continue
        label = class_name(parts[0])
        by_split[split].append(Image(place, os.fsencode("/".join(parts)), label))
    _check_loose(root, paths, loose, split_folders, warnings)
    if split_folders:
        splits = {SPLITS[name.lower()]: by_split[SPLITS[name.lower()]] for name in split_folders}
        if set(splits) == {"train"} and wants_test:
            notes.append(
                f"{root} has no folder test or val beside {split_folders[0]}: a tenth of its"
                " images, chosen by a hash of their names, is split 'test' and is not trained on"
            )
            splits = divide(splits["train"])
    else:
        _check_levels(root, paths)
        splits = divide(by_split[""])
    classes = _classes(root, splits, warnings, wants_test=wants_test)
    if all(map(str.isdecimal, classes)) and list(classes) != sorted(classes, key=int):
        place = next(i for i, name in enumerate(sorted(classes, key=int)) if name != classes[i])
        notes.append(
            f"classes are in alphabetical order, as torchvision has them: label {place} is class"
            f" '{classes[place]}'; 01, 02, ... would keep the order of numbers"
        )
    if empty := _empty_folders(split_folders, folders, classes):
        warnings.append(f"{root}: folders without images are no classes: {listed(empty)}")
    sorted_splits = {split: ordered(split, images) for split, images in splits.items()}
    return Layout(sorted_splits, classes, notes, warnings)


def hasher(salt: str) -> Callable[[bytes], int]:
    """Returns the hash of keys by which TFDS shuffles: (key) -> 128 bits."""
    start = hashlib.md5(salt.encode(), usedforsecurity=False)

    def hash_key(key: bytes) -> int:
        digest = start.copy()
        digest.update(key)
        return int(digest.hexdigest(), 16)

    return hash_key


def listed(names: Sequence[str], most: int = 5) -> str:
    """Returns the first names, and the number of the others."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def counted(number: int) -> str:
    """Returns a number of images in words, such as "1 image" and "2 images"."""
    return f"{number:,} image{'' if number == 1 else 's'}"


def _split_folders(
    root: str, paths: Sequence[str], folders: Sequence[str], notes: list[str]
) -> list[str]:
    """Returns the folders at the root that are splits; none if all are classes."""
    top = sorted(folder for folder in folders if os.sep not in folder)
    depths = collections.defaultdict(set)  # of the images in each: 2 for those that lie in it
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
                f"{root} holds class folders: {listed(named)} is taken as a class too, having no"
                " folders in it"
            )
        return []
    if others:
        raise errors.InputError(
            f"image folder {root} has folders of splits ({listed(list(map(shown, named)))}) beside"
            f" others ({listed(list(map(shown, others)))}): {WANTED}; move the others away, or into"
            " train"
        )
    named_splits = [SPLITS[folder.lower()] for folder in named]
    if "train" not in named_splits or len(set(named_splits)) < len(named_splits):
        raise errors.InputError(
            f"image folder {root} has {', '.join(named)}: it takes train, and beside it test, and"
            " one of val, valid, validation and dev, each with one folder of images per class; or"
            " the folders of the classes alone"
        )
    return named


def _check_loose(
    root: str, paths: Sequence[str], loose: list[str], splits: list[str], warnings: list[str]
) -> None:
    """Warns of images outside of class folders; raises an InputError if all images are."""
    if not loose:
        return
    names = listed([shown(path) for path in loose], 3)
    within = f"each of {', '.join(splits)}" if splits else "it"
    if len(loose) == len(paths):
        higher = "" if splits else "; if it is the folder of one class, name the folder above"
        raise errors.InputError(
            f"image folder {root} has {counted(len(loose))} ({names}), but none in the folder of a"
            f" class: {within} must hold a folder for each class{higher}; without labels, with"
            " data.use_labels=False, images may lie anywhere"
        )
    warnings.append(
        f"{root}: images in no folder of a class are not used: {counted(len(loose))} ({names})"
    )


def _check_levels(root: str, paths: Sequence[str]) -> None:
    """Raises an InputError if class folders hold splits: ROOT is too high, or turned around."""
    inner = collections.defaultdict(set)
    for path in paths:
        parts = path.split(os.sep)
        if len(parts) > 2 and parts[1].lower() in SPLITS:
            inner[parts[0]].add(parts[1])
    for folder, names in sorted(inner.items()):
        if "train" in {SPLITS[name.lower()] for name in names}:
            alone = f"; is it {os.path.join(root, folder)}?" if len(inner) == 1 else ""
            raise errors.InputError(
                f"image folder {root} has {', '.join(sorted(names))} in {shown(folder)}, one level"
                f" too low: {WANTED}{alone}"
            )


def divide(images: Sequence[Image]) -> dict[str, list[Image]]:
    """Returns splits "train" and "test", which gets a tenth, by a hash of the images' keys."""
    hash_key = hasher("image_folder")
    splits: dict[str, list[Image]] = {"train": [], "test": []}
    for image in images:
        is_test = hash_key(image.key) / 2**128 < TEST_FRACTION
        splits["test" if is_test else "train"].append(image)
    return splits


def ordered(split: str, images: Sequence[Image]) -> list[Image]:
    """Returns the images of a split in the order of a hash of their keys."""
    hash_key = hasher(split)
    return sorted(images, key=lambda image: (hash_key(image.key), image.key))


def _classes(
    root: str, splits: Mapping[str, list[Image]], warnings: list[str], *, wants_test: bool
) -> tuple[str, ...]:
    """Returns the classes of the training images, in alphabetical order."""
    by_split = {split: {image.label for image in images} for split, images in splits.items()}
    classes = sorted(by_split["train"])
    if len(classes) == 1:
        raise errors.InputError(
            f"image folder {root} has one class, '{classes[0]}', and nothing to tell it from: is"
            f" ROOT one level too high or too low? {WANTED}"
        )
    called = {SPLITS.get(_ADDED.sub("", name.lower())) for name in classes}
    if "train" in called and None not in called:
        raise errors.InputError(
            f"image folder {root} has folders {listed(classes)}, which are names of splits,"
            f" and would be taken as classes: {WANTED}; in each of them, a folder for each class"
        )
    for split, labels in by_split.items():
        if not labels and (split == "train" or (split == "test" and wants_test)):
            total = sum(map(len, splits.values()))
            few = " (a tenth of so few, chosen by a hash, is none)" if total else ""
            raise errors.InputError(
                f"image folder {root} has no images for split '{split}'{few}: {WANTED}"
            )
    for split, labels in by_split.items():
        if unknown := labels - set(classes):
            name = min(unknown)
            raise errors.InputError(
                f"image folder {root} has class '{name}' in split '{split}', but no training image"
                f" of it; {errors.hint(name, classes)}{len(classes)} classes are in train:"
                f" {listed(classes)}"
            )
        if missing := sorted(set(classes) - labels):
            warnings.append(
                f"classes without images in split '{split}': {len(missing)} of {len(classes)}"
                f" ({listed(missing)})"
            )
    similar = collections.defaultdict(list)
    for name in classes:
        similar[name.casefold().strip()].append(repr(name))
    for names in similar.values():
        if len(names) > 1:
            warnings.append(f"classes {' and '.join(names)} differ in case or space only")
    return tuple(classes)


def _empty_folders(
    split_folders: Sequence[str], folders: Sequence[str], classes: Sequence[str]
) -> list[str]:
    """Returns the folders that could be classes, but have no images."""
    depth = 2 if split_folders else 1
    parts = [(folder, folder.split(os.sep)) for folder in folders]
    return [
        shown(folder)
        for folder, names in parts
        if len(names) == depth and class_name(names[-1]) not in classes
    ]
