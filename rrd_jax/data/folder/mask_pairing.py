"""Matches images with their masks by the paths of the files."""

import collections
import os
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from rrd_jax import errors
from rrd_jax.data.folder import layout
from rrd_jax.data.folder.file_tree import File, display_path
from rrd_jax.data.images import image_files
from rrd_jax.data.label_checks import abbreviate

_IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages")
_MASK_FOLDERS = ("masks", "mask", "labels", "annotations", "segmentationclass")
_SUFFIXES = ("mask", "masks", "label", "labels", "seg", "gt")
# Smallest share of a folder's files that have a partner, for a warning about masks.
_MIN_PAIRED = 0.5
_SEPARATORS = "_-."
EXPECTED_LAYOUT = (
    "expected ROOT/images/NAME.jpg with ROOT/masks/NAME.png, both optionally below train and test"
    " or val, or NAME.jpg next to NAME_mask.png"
)


class Pair(NamedTuple):
    """An image and its mask.

    Attributes:
      split: "train", "test" or "validation"; "" if the folder has no splits.
      key: path of the image without its suffix and the folders of splits and images.
      image: index of the image's file.
      mask: index of the mask's file.
    """

    split: str
    key: str
    image: int
    mask: int


class Pairing(NamedTuple):
    """The pairs of a folder.

    Attributes:
      pairs: images with their masks, sorted by split and key.
      unpaired: {path: reason} of images without a mask and masks without an image.
      unused: paths of files that are neither an image nor a mask.
    """

    pairs: list[Pair]
    unpaired: dict[str, str]
    unused: list[str]


class _Part(NamedTuple):
    """The role of a file: an image or a mask of a split."""

    is_mask: bool
    split: str
    key: str


def match(paths: Sequence[str]) -> Pairing:
    """Matches images and masks with the same stem.

    Images are below a folder `images` and masks below a folder `masks`, or masks have a suffix such
    as _mask. Masks in a folder may have the suffix as well.

    Args:
      paths: paths of all files, relative to the root.
    """
    named = [path for path in paths if image_files.is_named_as_image(path)]
    by_folder = any(_folder_role(path) == "mask" for path in named)
    images, masks = collections.defaultdict(list), collections.defaultdict(list)
    unused, names = [], set(named)
    for index, path in enumerate(paths):
        part = _part(path, by_folder) if path in names else None
        if part is None:
            unused.append(path)
        else:
            (masks if part.is_mask else images)[part.split, part.key].append(index)
    _add_shortened_keys(images, masks)
    pairs, unpaired = [], {}
    for place, files in sorted(images.items()):
        found_masks = masks.pop(place, [])
        if len(files) == len(found_masks) == 1:
            pairs.append(Pair(*place, files[0], found_masks[0]))
            continue
        reason = "no mask" if not found_masks else "several files with this stem"
        unpaired |= dict.fromkeys((paths[i] for i in (*files, *found_masks)), reason)
    for files in masks.values():
        unpaired |= dict.fromkeys((paths[i] for i in files), "a mask without an image")
    return Pairing(pairs, unpaired, unused)


def describe_masks(root: str, files: Sequence[File]) -> list[str]:
    """Returns a warning if most images of a folder have a mask, which is also an image."""
    pairs = len(match([file.path for file in files]).pairs)
    if not pairs or 2 * pairs < _MIN_PAIRED * len(files):
        return []
    return [
        f"{root} holds {pairs:,} masks, which are used as images; to leave them out, set"
        " data.name=mask_folder"
    ]


def check(root: str, matched: Pairing) -> None:
    """Checks that a folder has pairs, and that all or none of them are in folders of splits.

    Args:
      root: the folder, for messages.
      matched: result of `match`.

    Raises:
      InputError: no image has a mask, only some pairs are in splits, or none is for training.
    """
    pairs, unpaired = matched.pairs, matched.unpaired
    if not pairs:
        some = [f"{display_path(path)}: {reason}" for path, reason in unpaired.items()]
        examples = f" ({abbreviate(some, 3)})" if some else ""
        raise errors.InputError(
            f"folder {root} has no image with a mask{examples}; {EXPECTED_LAYOUT}"
        )
    splits = {pair.split for pair in pairs}
    if "" in splits and len(splits) > 1:
        key = next(pair.key for pair in pairs if not pair.split)
        raise errors.InputError(
            f"folder {root} has images in folders of splits ({', '.join(sorted(splits - {''}))})"
            f" and images outside of them, such as {display_path(key)}; move all into splits"
        )
    if splits != {""} and "train" not in splits:
        raise errors.InputError(
            f"folder {root} has masks for split {', '.join(sorted(splits))}, but none for train;"
            " add training images, or move the images out of the folders of splits"
        )


def _folder_role(path: str) -> str:
    """Returns "image" or "mask" for a file below a folder with such a name, otherwise ""."""
    for folder in path.lower().split(os.sep)[:-1]:
        if folder in _IMAGE_FOLDERS:
            return "image"
        if folder in _MASK_FOLDERS:
            return "mask"
    return ""


def _part(path: str, by_folder: bool) -> _Part | None:
    """Returns the role of an image file; None for a file outside the folders of roles."""
    folders, (stem, _) = path.split(os.sep)[:-1], os.path.splitext(os.path.basename(path))
    if by_folder:
        role = _folder_role(path)
        if not role:
            return None
        names = _IMAGE_FOLDERS if role == "image" else _MASK_FOLDERS
        folders.pop(next(i for i, name in enumerate(folders) if name.lower() in names))
    else:
        role = "mask" if _without_suffix(stem) != stem else "image"
        stem = _without_suffix(stem)
    split = layout.SPLITS.get(folders[0].lower(), "") if folders else ""
    # File systems use different Unicode normal forms.
    key = unicodedata.normalize("NFC", "/".join([*folders[bool(split) :], stem]))
    return _Part(role == "mask", split, key)


def _add_shortened_keys(images: dict, masks: dict) -> None:
    """Moves masks such as masks/NAME_mask.png to the image NAME if no image has their stem."""
    for split, key in list(masks):
        shortened = split, _without_suffix(key)
        if (split, key) not in images and shortened in images:
            masks[shortened] += masks.pop((split, key))


def _without_suffix(stem: str) -> str:
    """Returns a stem without a mask's suffix such as _mask; the stem itself without a suffix."""
    for suffix in _SUFFIXES:
        start = stem[: -len(suffix)]
        if stem.lower().endswith(suffix) and start[-1:] in tuple(_SEPARATORS) and len(start) > 1:
            return start[:-1]
    return stem
