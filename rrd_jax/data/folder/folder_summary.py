"""Reports on a folder of images: damaged files, splits, sizes, formats and duplicates."""

import collections
import os
import statistics
from collections.abc import Sequence
from typing import Any

from rrd_jax import errors
from rrd_jax.data.folder import layout
from rrd_jax.data.folder.file_tree import File, Tree, display_path
from rrd_jax.data.folder.folder_examples import FolderExamples
from rrd_jax.data.folder.inspection import CheckedFile
from rrd_jax.data.folder.layout import Layout, abbreviate
from rrd_jax.data.splits import Summary
from rrd_jax.settings import kinds

# Damaged images are tolerated up to 1 percent. Small folders may have up to three damaged images
# if these are at most a tenth of the folder.
_MAX_DAMAGED_SHARE, _SMALL_COUNT, _SMALL_SHARE = 0.01, 3, 0.1


def check_damage(
    root: str, files: Sequence[File], checked: Sequence[CheckedFile], *, use_labels: bool
) -> None:
    """Raises an InputError if too many images cannot be read.

    With labels the limit is about 1 percent, and no class may lose all images; without labels the
    limit is half of the images.
    """
    pairs = list(zip(files, checked, strict=True))
    damaged = {file.path: result.problem for file, result in pairs if result.problem}
    readable = {file.path for file, result in pairs if result.format}
    if not damaged:
        return
    total = len(damaged) + len(readable)
    some = abbreviate([f"{display_path(path)}: {problem}" for path, problem in damaged.items()], 3)
    lost = sorted(set(map(_class_of, damaged)) - set(map(_class_of, readable)))
    if use_labels and lost:
        raise errors.InputError(
            f"image folder {root}: no image of {abbreviate(list(map(display_path, lost)))} can be"
            f" read ({some}); repair the images, or remove the folder"
        )
    if len(damaged) > (damage_limit(total) if use_labels else total / 2):
        raise errors.InputError(
            f"image folder {root}: {len(damaged):,} of {total:,} images cannot be read ({some});"
            " repair or remove them; `python -m rrd_jax.data.prepare --name=image_folder"
            f" --manual_dir={root}` lists all of them"
        )


def damage_limit(total: int) -> float:
    """Returns the largest number of damaged files among `total` files with labels."""
    return max(_MAX_DAMAGED_SHARE * total, min(_SMALL_COUNT, _SMALL_SHARE * total))


def problems(tree: Tree, checked: Sequence[CheckedFile]) -> dict[str, str]:
    """Returns {path: reason} for every entry that is not used."""
    skipped = {display_path(path): reason for path, reason in tree.skipped}
    for file, result in zip(tree.files, checked, strict=True):
        if not result.format:
            skipped[display_path(file.path)] = result.problem or "not an image"
    return skipped


def summarize(
    version: str,
    root: str,
    tree: Tree,
    checked: Sequence[CheckedFile],
    plan: Layout,
    train: FolderExamples,
    test: FolderExamples,
    background: str,
) -> Summary:
    """Returns the summary of a folder; `plan` has no classes if labels are not used."""
    images = [result for result in checked if result.format]
    skipped, sizes = problems(tree, checked), _sizes(images)
    formats = dict(collections.Counter(image.format for image in images).most_common())
    low, median, high = ("{}x{}".format(*sizes[name]) for name in ("min", "median", "max"))
    pixels = f"all {low} pixels" if low == high else f"{low} to {high} pixels, median {median}"
    listed_formats = ", ".join(f"{name} {count:,}" for name, count in formats.items())
    details: dict[str, Any] = {"version": version}
    if plan.classes:
        counts = {"train": _per_class(train, plan), "test": _per_class(test, plan)}
        details |= {"classes": list(plan.classes), "images": counts}
        lines = [
            f"images: {len(train):,} for training, {len(test):,} for testing,"
            f" {len(plan.classes):,} classes ({abbreviate(plan.classes, 10)}), from {root}",
            f"  per class: {_spread(counts['train'])} for training, {_spread(counts['test'])} for"
            " testing",
        ]
        consequence = "top-1 will be too high"
    else:
        details |= {"images": {"train": len(train), "test": len(test)}}
        lines = [
            f"images without labels: {len(train):,} for training, {len(test):,} held out, from"
            f" {root}"
        ]
        consequence = "the held-out loss will be too low"
    warnings = list(plan.warnings)
    if skipped:
        some = abbreviate([f"{path}: {reason}" for path, reason in skipped.items()])
        warnings.append(f"{len(skipped):,} of the files in {root} are not used ({some})")
    duplicates, duplicate_warnings = _duplicates(train, test, consequence)
    lines += [f"  {pixels}; {listed_formats}", *(f"note: {note}" for note in plan.notes)]
    transparent = sum(bool(image.transparent) for image in images)
    if transparent and background != kinds.NO_COLOR:
        lines.append(
            f"  {layout.image_count(transparent)} with transparency: on {background}"
            " (data.background)"
        )
    elif transparent:
        warnings.append(
            f"{layout.image_count(transparent)} with transparency, which data.background=none"
            " drops: the colors that transparent pixels hide become visible; for new runs, set"
            " data.background to a color, such as white"
        )
    details |= {
        "splits": {split: len(part) for split, part in plan.splits.items()},
        "sizes": sizes,
        "formats": formats,
        "transparent": transparent,
        "skipped": skipped,
        "duplicates": duplicates,
        "notes": plan.notes,
    }
    return Summary(tuple(lines), (*warnings, *duplicate_warnings), details)


def _class_of(path: str) -> str:
    parts = path.split(os.sep)
    of_split = len(parts) > 2 and parts[0].lower() in layout.SPLITS
    return os.sep.join(parts[: 2 if of_split else 1])


def _per_class(examples: FolderExamples, plan: Layout) -> dict[str, int]:
    counts = collections.Counter(examples.labels)
    return {name: counts[i] for i, name in enumerate(plan.classes)}


def _spread(counts: dict[str, int]) -> str:
    low, high = min(counts, key=counts.get), max(counts, key=counts.get)
    if counts[low] == counts[high]:
        return layout.image_count(counts[low])
    mean = sum(counts.values()) / len(counts)
    return f"{counts[low]:,} ('{low}') to {counts[high]:,} ('{high}'), mean {mean:,.1f},"


def _sizes(images: Sequence[CheckedFile]) -> dict[str, list[int]]:
    """Returns [width, height] of the smallest and largest image by area, and the medians."""
    by_area = sorted((image.width * image.height, image.width, image.height) for image in images)
    median = [
        int(statistics.median_low(getattr(image, side) for image in images))
        for side in ("width", "height")
    ]
    return {"min": list(by_area[0][1:]), "median": median, "max": list(by_area[-1][1:])}


def _duplicates(
    train: FolderExamples, test: FolderExamples, consequence: str
) -> tuple[dict[str, int], list[str]]:
    """Returns the numbers of byte-identical files, and warnings about duplicates."""
    train_index = {digest: i for i, digest in enumerate(train.digests)}
    across = [i for i, digest in enumerate(test.digests) if digest in train_index]
    labels = collections.defaultdict(set)
    for part in (train, test):
        for digest, label in zip(part.digests, part.labels, strict=True):
            labels[digest].add(label)
    details = {
        "test images in train": len(across),
        "within train": len(train) - len(set(train.digests)),
        "within test": len(test) - len(set(test.digests)),
        "of several classes": sum(len(classes) > 1 for classes in labels.values()),
    }
    warnings = []
    if across:
        originals = [train.paths[train_index[test.digests[i]]] for i in across]
        pairs = [
            f"{display_path(test.paths[i])} = {display_path(original)}"
            for i, original in zip(across, originals, strict=True)
        ]
        warnings.append(
            f"{len(across):,} of {len(test):,} test images are also training images"
            f" ({abbreviate(pairs, 3)}); {consequence}"
        )
    if within := details["within train"] + details["within test"]:
        warnings.append(f"duplicate images within a split: {within:,}")
    if contradictory := details["of several classes"]:
        warnings.append(f"images in more than one class: {contradictory:,}")
    return details, warnings
