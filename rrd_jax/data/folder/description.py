"""What was found in a folder of images: how much of it is damaged, and in words and figures."""

import collections
import dataclasses
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
from rrd_jax.data.summary import Summary

# Of images that cannot be read: more is no accident. Of few images, up to three and a tenth.
_SHARE, _FEW, _SHARE_OF_FEW = 0.01, 3, 0.1


def check_share(root: str, files: Sequence[File], found: Sequence[Checked]) -> None:
    """Raises an InputError where more than a few images cannot be read, or all of a class."""
    damaged = {f.path: c.problem for f, c in zip(files, found, strict=True) if c.problem}
    readable = {f.path for f, c in zip(files, found, strict=True) if c.format}
    if not damaged:
        return
    total = len(damaged) + len(readable)
    some = listed([f"{shown(path)}: {problem}" for path, problem in damaged.items()], 3)
    lost = sorted(set(map(_class_of, damaged)) - set(map(_class_of, readable)))
    if lost:
        raise errors.InputError(
            f"image folder {root}: no image of {listed(list(map(shown, lost)))} can be read"
            f" ({some}): repair them, or remove the folder"
        )
    if len(damaged) > max(_SHARE * total, min(_FEW, _SHARE_OF_FEW * total)):
        raise errors.InputError(
            f"image folder {root}: {len(damaged):,} of {total:,} images cannot be read ({some}):"
            f" repair or remove them; `python -m rrd_jax.data.prepare --name=image_folder"
            f" --manual_dir={root}` lists them all"
        )


def problems(tree: Tree, found: Sequence[Checked]) -> dict[str, str]:
    """Path and reason of all that is not read."""
    skipped = {shown(path): reason for path, reason in tree.skipped}
    for file, checked in zip(tree.files, found, strict=True):
        if not checked.format:
            skipped[shown(file.path)] = checked.problem or "it is no image"
    return skipped


def summarize(
    version: str,
    root: str,
    tree: Tree,
    found: Sequence[Checked],
    plan: Layout,
    train: FolderExamples,
    test: FolderExamples,
) -> Summary:
    """A folder in words and figures."""
    images = [checked for checked in found if checked.format]
    skipped = problems(tree, found)
    found_formats = formats(images)
    counts = {"train": _per_class(train, plan), "test": _per_class(test, plan)}
    found_sizes = sizes(images)
    copies = duplicates(train, test, "the top-1 will be too high")
    classes = listed(plan.classes, 10)
    lines = [
        f"images of {root}: {len(train):,} to train on, {len(test):,} to test on,"
        f" {len(plan.classes):,} classes: {classes}",
        f"  a class has {_spread(counts['train'])} to train on, {_spread(counts['test'])} to test"
        " on",
        f"  {words(found_sizes)}; {listed_formats(found_formats)}",
        *(f"note: {note}" for note in plan.notes),
    ]
    warnings = [*plan.warnings, *of_skipped(root, skipped), *copies["warnings"]]
    figures = {
        "version": version,
        "classes": list(plan.classes),
        "images": counts,
        "splits": {split: len(part) for split, part in plan.splits.items()},
        "sizes": found_sizes,
        "formats": found_formats,
        "skipped": skipped,
        "duplicates": copies["figures"],
        "notes": plan.notes,
    }
    return Summary(tuple(lines), tuple(warnings), figures)


def with_note(summary: Summary, note: str) -> Summary:
    """A summary with one line more."""
    return dataclasses.replace(summary, lines=(*summary.lines, f"note: {note}"))


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


def formats(images: Sequence[Checked]) -> dict[str, int]:
    """How many images there are of each format, the most first."""
    return dict(collections.Counter(image.format for image in images).most_common())


def listed_formats(counts: dict[str, int]) -> str:
    """What `formats` finds, in words."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def sizes(images: Sequence[Checked]) -> dict[str, list[int]]:
    """[width, height] of the smallest and the largest image by area, and the median of each."""
    by_area = sorted((image.width * image.height, image.width, image.height) for image in images)
    median = [
        int(statistics.median_low(getattr(image, side) for image in images))
        for side in ("width", "height")
    ]
    return {"min": list(by_area[0][1:]), "median": median, "max": list(by_area[-1][1:])}


def words(sizes: dict[str, list[int]]) -> str:
    """What `sizes` finds."""
    low, median, high = ("{}x{}".format(*sizes[name]) for name in ("min", "median", "max"))
    return f"all {low} pixels" if low == high else f"{low} to {high} pixels, median {median}"


def of_skipped(root: str, skipped: dict[str, str]) -> list[str]:
    """A warning that names some of what is not read; none where that is nothing."""
    if not skipped:
        return []
    some = listed([f"{path}: {reason}" for path, reason in skipped.items()])
    return [f"{root}: not read: {len(skipped):,} ({some})"]


def duplicates(train: FolderExamples, test: FolderExamples, so: str) -> dict[str, Any]:
    """Images whose files are alike, byte for byte: `figures`, and `warnings`.

    Args:
      train: the training split.
      test: the test split.
      so: what follows where test images are trained on.
    """
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
            f" ({listed(pairs, 3)}); {so}"
        )
    within = figures["within train"] + figures["within test"]
    if within:
        warnings.append(f"copies of another image in the same split: {within:,}")
    if contradictory := figures["of several classes"]:
        warnings.append(f"images that are in more than one class: {contradictory:,}")
    return {"figures": figures, "warnings": warnings}
