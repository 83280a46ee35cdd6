"""Images of a folder without labels: wherever they lie in it, in whatever formats."""

import os
from collections.abc import Sequence
from typing import Any

from rrd_jax import errors
from rrd_jax.data.folder import description, layout
from rrd_jax.data.folder.file_tree import File, Tree, shown
from rrd_jax.data.folder.folder_examples import FolderExamples
from rrd_jax.data.folder.inspection import Checked, is_named_as_image
from rrd_jax.data.folder.layout import Image, Layout, listed
from rrd_jax.data.summary import Summary


def chosen(files: Sequence[File], most: int | None) -> list[File]:
    """The files of a folder that are used: all, or so many images by a hash of their names.

    Files that come later do not change which of the others these are, but for those they replace.

    Args:
      files: of the folder.
      most: None for all.
    """
    if most is None:
        return list(files)
    hash_key = layout.hasher("max_images")
    named = [file for file in files if is_named_as_image(file.path)] or list(files)
    return sorted(sorted(named, key=lambda file: hash_key(_key(file.path)))[:most])


def arrange(root: str, paths: Sequence[str], *, wants_test: bool = True) -> Layout:
    """Sorts images into splits: a tenth is for testing, by a hash of their paths.

    An image stays in its split whatever is added. Where the root holds nothing but train, and
    beside it test or val, those are the splits.

    Args:
      root: for messages.
      paths: of the images, below the root.
      wants_test: whether a split "test" is asked for.

    Raises:
      InputError: there are no images, or none to test on.
    """
    if not paths:
        raise errors.InputError(
            f"image folder {root} has no images: name a folder that holds some, at any depth, with"
            " data.manual_dir"
        )
    images = [Image(place, _key(path), "") for place, path in enumerate(paths)]
    by_folder, notes = _by_folder(images), []
    if by_folder:
        splits = by_folder
        notes.append(f"{root} holds folders of splits: {listed(sorted(splits))}")
    else:
        splits = layout.divide(images)
        notes.append(
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
    return Layout(splits, (), notes, [])


def check_share(root: str, files: Sequence[File], found: Sequence[Checked]) -> None:
    """Raises an InputError where more images cannot be read than can."""
    damaged = [(f.path, c.problem) for f, c in zip(files, found, strict=True) if c.problem]
    readable = sum(bool(checked.format) for checked in found)
    if len(damaged) > readable:
        some = listed([f"{shown(path)}: {problem}" for path, problem in damaged[:3]], 3)
        raise errors.InputError(
            f"image folder {root}: {len(damaged):,} of {len(damaged) + readable:,} images cannot be"
            f" read ({some}): repair or remove them"
        )


def summarize(
    version: str,
    root: str,
    tree: Tree,
    found: Sequence[Checked],
    plan: Layout,
    splits: tuple[FolderExamples, FolderExamples],
) -> Summary:
    """A folder in words and figures."""
    train, test = splits
    images = [checked for checked in found if checked.format]
    skipped = description.problems(tree, found)
    formats, sizes = description.formats(images), description.sizes(images)
    duplicates = description.duplicates(train, test, "the loss there says little")
    lines = [
        f"images of {root}, without labels: {len(train):,} to train on, {len(test):,} held out",
        f"  {description.words(sizes)}; {description.listed_formats(formats)}",
        *(f"note: {note}" for note in plan.notes),
    ]
    figures: dict[str, Any] = {
        "version": version,
        "images": {"train": len(train), "test": len(test)},
        "splits": {split: len(part) for split, part in plan.splits.items()},
        "sizes": sizes,
        "formats": formats,
        "skipped": skipped,
        "duplicates": duplicates["figures"],
        "notes": plan.notes,
    }
    warnings = (*description.of_skipped(root, skipped), *duplicates["warnings"])
    return Summary(tuple(lines), warnings, figures)


def _key(path: str) -> bytes:
    return os.fsencode(path.replace(os.sep, "/"))


def _by_folder(images: Sequence[Image]) -> dict[str, list[Image]]:
    """The images by split, where each lies in the folder of one and train is among them."""
    splits: dict[str, list[Image]] = {}
    for image in images:
        folder, slash, _ = os.fsdecode(image.key).partition("/")
        split = layout.SPLITS.get(folder.lower()) if slash else None
        if split is None:
            return {}
        splits.setdefault(split, []).append(image)
    return splits if "train" in splits and len(splits) > 1 else {}
