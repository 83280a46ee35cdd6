"""Reports on a folder of images and masks: unusable files, classes and their pixels."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rrd_jax import errors
from rrd_jax.data.folder import folder_summary
from rrd_jax.data.folder.file_tree import display_path
from rrd_jax.data.label_checks import abbreviate
from rrd_jax.data.mask_index import IGNORED
from rrd_jax.data.splits import Summary

# Number of classes whose share of the pixels is printed.
_LISTED = 8


class Facts(NamedTuple):
    """The contents of an inspected folder.

    Attributes:
      root: path of the folder.
      unused: {path: reason} of images and masks that are not used.
      class_names: names of the classes; () if unknown.
      num_classes: C.
      counts: {split: {class index: number of pixels}}.
      turned: number of pairs with an EXIF orientation.
      notes: automatic decisions.
    """

    root: str
    unused: Mapping[str, str]
    class_names: tuple[str, ...]
    num_classes: int
    counts: Mapping[str, Mapping[int, int]]
    turned: int
    notes: list[str]


def check_damage(root: str, problems: Mapping[str, str], total: int) -> None:
    """Raises an InputError if too many of `total` pairs cannot be used."""
    if len(problems) > min(folder_summary.damage_limit(total), total - 1):
        raise errors.InputError(
            f"folder {root}: {len(problems):,} of {total:,} images with masks cannot be used"
            f" ({_listed(problems)}); repair or remove them; `python -m rrd_jax.data.prepare"
            f" --name=mask_folder --manual_dir={root}` lists all of them"
        )


def check_classes(root: str, counts: Mapping[int, int], num_classes: int) -> None:
    """Raises an InputError if the training pixels have fewer than two classes."""
    present = sorted(counts.keys() - {IGNORED})
    if len(present) > 1 and num_classes > 1:
        return
    binary = ""
    if IGNORED in counts:
        binary = f"; {IGNORED} stands for no class: if it is a class here, renumber it"
    raise errors.InputError(
        f"the training masks of folder {root} have only class index"
        f" {', '.join(map(str, present))}, but need at least two classes{binary}"
    )


def summarize(version: str, facts: Facts, images: Mapping[str, int]) -> Summary:
    """Returns the summary of a folder.

    Args:
      version: version of the data set.
      facts: the contents of the folder.
      images: number of images of each split.
    """
    names = facts.class_names
    lines = (
        f"images with masks: {images['train']:,} for training, {images['test']:,} for testing, from"
        f" {facts.root}",
        f"  pixels of training masks: {_shares(facts.counts['train'], names)}",
        *(f"note: {note}" for note in facts.notes),
    )
    details: dict[str, Any] = {
        "version": version,
        "classes": list(names) or facts.num_classes,
        "images": dict(images),
        "pixels": {
            split: {str(index): count for index, count in sorted(counts.items())}
            for split, counts in facts.counts.items()
        },
        "skipped": dict(facts.unused),
        "notes": list(facts.notes),
    }
    return Summary(lines, tuple(_warnings(facts)), details)


def _warnings(facts: Facts) -> list[str]:
    warnings = []
    if facts.unused:
        warnings.append(
            f"{len(facts.unused):,} images or masks in {facts.root} are not used"
            f" ({_listed(facts.unused)})"
        )
    if facts.turned:
        warnings.append(
            f"{facts.turned:,} images or masks in {facts.root} have an EXIF orientation, which is"
            " applied to each file; masks must fit the upright images"
        )
    if missing := _missing(facts):
        warnings.append(f"classes without pixels in training masks: {missing}")
    return warnings


def _missing(facts: Facts) -> str:
    names = facts.class_names
    absent = [
        f"{index} ('{errors.printable(name)}')"
        for index, name in enumerate(names)
        if not facts.counts["train"].get(index)
    ]
    return abbreviate(absent)


def _shares(counts: Mapping[int, int], names: Sequence[str]) -> str:
    """Describes the share of the pixels of each class, largest first."""
    total = sum(counts.values())

    def describe(index: int) -> str:
        name = errors.printable(names[index]) if index < len(names) else f"class {index}"
        label = "no class" if index == IGNORED else name
        return f"{label} {100 * counts[index] / total:.2g} %"

    order = sorted(counts, key=lambda index: (-counts[index], index))
    return abbreviate([describe(index) for index in order], _LISTED)


def _listed(reasons: Mapping[str, str]) -> str:
    return abbreviate([f"{display_path(path)}: {reason}" for path, reason in reasons.items()], 3)
