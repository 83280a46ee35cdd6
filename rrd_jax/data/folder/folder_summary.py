"""Reports on a folder of images: its damage, and its splits, sizes, formats and duplicates."""

import collections
import os
import statistics
from collections.abc import Sequence
from typing import Any

from rrd_jax import errors
from rrd_jax.data.folder import layout
from rrd_jax.data.folder.file_tree import File, Tree, shown
from rrd_jax.data.folder.folder_examples import FolderExamples
from rrd_jax.data.folder.inspection import Checked
from rrd_jax.data.folder.layout import Layout, listed
from rrd_jax.data.splits import Summary

# Largest share of damaged images: more is no accident. Of few images, up to three and a tenth.
_SHARE, _FEW, _SHARE_OF_FEW = 0.01, 3, 0.1


def check_damage(
    root: str, files: Sequence[File], checked: Sequence[Checked], *, use_labels: bool
) -> None:
    """Raises an InputError if too many images cannot be read.

    With labels these are more than a few, or all of a class; without, more than half.
    """
    pairs = list(zip(files, checked, strict=True))
    damaged = {file.path: result.problem for file, result in pairs if result.problem}
    readable = {file.path for file, result in pairs if result.format}
    if not damaged:
        return
    total = len(damaged) + len(readable)
    some = listed([f"{shown(path)}: {problem}" for path, problem in damaged.items()], 3)
    lost = sorted(set(map(_class_of, damaged)) - set(map(_class_of, readable)))
    if use_labels and lost:
        raise errors.InputError(
            f"image folder {root}: no image of {listed(list(map(shown, lost)))} can be read"
            f" ({some}): repair them, or remove the folder"
        )
    allowed = max(_SHARE * total, min(_FEW, _SHARE_OF_FEW * total)) if use_labels else total / 2
    if len(damaged) > allowed:
        raise errors.InputError(
            f"image folder {root}: {len(damaged):,} of {total:,} images cannot be read ({some}):"
            " repair or remove them; `python -m rrd_jax.data.prepare --name=image_folder"
            f" --manual_dir={root}` lists them all"
        )


def problems(tree: Tree, checked: Sequence[Checked]) -> dict[str, str]:
    """Returns {path: reason} of everything that is not read."""
    skipped = {shown(path): reason for path, reason in tree.skipped}
    for file, result in zip(tree.files, checked, strict=True):
        if not result.format:
            skipped[shown(file.path)] = result.problem or "it is no image"
    return skipped


def summarize(
    version: str,
    root: str,
    tree: Tree,
    checked: Sequence[Checked],
    plan: Layout,
    train: FolderExamples,
    test: FolderExamples,
) -> Summary:
    """Returns a summary of a folder; without classes, of one whose labels are not used."""
    images = [result for result in checked if result.format]
    skipped, sizes = problems(tree, checked), _sizes(images)
    formats = dict(collections.Counter(image.format for image in images).most_common())
    low, median, high = ("{}x{}".format(*sizes[name]) for name in ("min", "median", "max"))
    pixels = f"all {low} pixels" if low == high else f"{low} to {high} pixels, median {median}"
    listed_formats = ", ".join(f"{name} {count:,}" for name, count in formats.items())
    figures: dict[str, Any] = {"version": version}
    if plan.classes:
        counts = {"train": _per_class(train, plan), "test": _per_class(test, plan)}
        figures |= {"classes": list(plan.classes), "images": counts}
        lines = [
            f"images of {root}: {len(train):,} to train on, {len(test):,} to test on,"
            f" {len(plan.classes):,} classes: {listed(plan.classes, 10)}",
            f"  a class has {_spread(counts['train'])} to train on, {_spread(counts['test'])} to"
            " test on",
        ]
        consequence = "the top-1 will be too high"
    else:
        figures |= {"images": {"train": len(train), "test": len(test)}}
        lines = [
            f"images of {root}, without labels: {len(train):,} to train on, {len(test):,} held out"
        ]
        consequence = "the loss there says little"
    warnings = list(plan.warnings)
    if skipped:
        some = listed([f"{path}: {reason}" for path, reason in skipped.items()])
        warnings.append(f"{root}: not read: {len(skipped):,} ({some})")
    duplicates, duplicate_warnings = _duplicates(train, test, consequence)
    lines += [f"  {pixels}; {listed_formats}", *(f"note: {note}" for note in plan.notes)]
    figures |= {
        "splits": {split: len(part) for split, part in plan.splits.items()},
        "sizes": sizes,
        "formats": formats,
        "skipped": skipped,
        "duplicates": duplicates,
        "notes": plan.notes,
    }
    return Summary(tuple(lines), (*warnings, *duplicate_warnings), figures)


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
        return layout.counted(counts[low])
    mean = sum(counts.values()) / len(counts)
    return f"{counts[low]:,} ('{low}') to {counts[high]:,} ('{high}'), {mean:,.1f} on average,"


def _sizes(images: Sequence[Checked]) -> dict[str, list[int]]:
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
    """Returns the numbers of files that are alike byte for byte, and warnings about them."""
    places = {digest: i for i, digest in enumerate(train.digests)}
    across = [i for i, digest in enumerate(test.digests) if digest in places]
    labels = collections.defaultdict(set)
    for part in (train, test):
        for digest, label in zip(part.digests, part.labels, strict=True):
            labels[digest].add(label)
    figures = {
        "test images in train": len(across),
        "within train": len(train) - len(set(train.digests)),
        "within test": len(test) - len(set(test.digests)),
        "of several classes": sum(len(classes) > 1 for classes in labels.values()),
    }
    warnings = []
    if across:
        pairs = [
            f"{shown(test.paths[i])} is {shown(train.paths[places[test.digests[i]]])}"
            for i in across
        ]
        warnings.append(
            f"test images that are trained on too: {len(across):,} of {len(test):,}"
            f" ({listed(pairs, 3)}); {consequence}"
        )
    if within := figures["within train"] + figures["within test"]:
        warnings.append(f"copies of another image in the same split: {within:,}")
    if contradictory := figures["of several classes"]:
        warnings.append(f"images that are in more than one class: {contradictory:,}")
    return figures, warnings
