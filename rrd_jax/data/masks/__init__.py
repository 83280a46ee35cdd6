"""Data sets from folders of images and masks, which are read in place.

`folder.mask_pairing` matches images and masks by their paths, `inspection` checks each file once,
and `decoding` reads masks. The same geometric transformation applies to an image and its mask, see
`data.images.transforms` and `data.augment.crops`.
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rrd_jax import errors, user_paths
from rrd_jax.data import class_names_file, folder, label_checks
from rrd_jax.data.folder import file_tree, layout, mask_pairing
from rrd_jax.data.folder import inspection as file_inspection
from rrd_jax.data.folder.file_tree import File, Tree, display_path
from rrd_jax.data.folder.folder_examples import FolderExamples
from rrd_jax.data.folder.mask_pairing import Pair, Pairing
from rrd_jax.data.mask_index import IGNORED
from rrd_jax.data.masks import inspection, report
from rrd_jax.data.masks.inspection import CheckedPart
from rrd_jax.data.source import Source
from rrd_jax.data.splits import Examples, Splits, Summary

# Files in the folder with the names of the classes.
_NAME_FILES = ("classes.txt", "classes.json", "class_names.txt", "class_names.json")
_KINDS = ("image", "mask")


@dataclasses.dataclass(frozen=True, eq=False)
class PairedExamples(Examples):
    """Encoded images of a folder with `mask`, the encoded mask, `label` 0 and `file_name`.

    Attributes:
      images: the images.
      masks: their masks.
    """

    images: FolderExamples
    masks: FolderExamples

    def __len__(self) -> int:
        return len(self.images)

    def read(self, i: int) -> dict[str, Any]:
        """Returns example i; raises an InputError if one of its files has changed."""
        return {**self.images[i], "mask": bytes(self.masks[i]["image"])}


@dataclasses.dataclass(frozen=True, eq=False)
class MaskFolder:
    """An inspected folder of images and masks.

    Attributes:
      root: path of the folder.
      files: all files of the folder.
      parts: results of the inspection, by index of a file.
      splits: pairs of each split.
      class_names: names in the order of indices; () if unknown.
      num_classes: C.
      facts: the facts for the report.
    """

    root: str
    files: Sequence[File]
    parts: Mapping[int, CheckedPart]
    splits: Mapping[str, Sequence[Pair]]
    class_names: tuple[str, ...]
    num_classes: int
    facts: report.Facts

    @property
    def version(self) -> str:
        """The name mask_folder, and a digest of splits, names, contents and classes."""
        digest = hashlib.sha256(repr(self.class_names).encode())
        for split, pairs in sorted(self.splits.items()):
            for pair in pairs:
                contents = f"{self.parts[pair.image].digest} {self.parts[pair.mask].digest}"
                digest.update(f"{split} {contents} ".encode() + os.fsencode(pair.key) + b"\0")
        return f"mask_folder/{digest.hexdigest()[:16]}"

    @property
    def display_name(self) -> str:
        """The name of the folder."""
        return errors.printable(os.path.basename(os.path.abspath(self.root)))

    def examples(self, expression: str) -> PairedExamples:
        """Returns the images and masks of a split expression."""
        pairs = folder.select_parts(
            self.splits, expression, "mask_folder", self.root, self.facts.notes
        )
        return PairedExamples(*(self._files([getattr(p, k) for p in pairs]) for k in _KINDS))

    def _files(self, indices: Sequence[int]) -> FolderExamples:
        files = [self.files[i] for i in indices]
        return FolderExamples(
            root=self.root,
            paths=[file.path for file in files],
            names=[os.fsencode(file.path.replace(os.sep, "/")) for file in files],
            labels=[0] * len(files),
            digests=[self.parts[i].digest for i in indices],
            states=file_inspection.trusted_states(files),
        )

    def summary(self, train: Sequence[Any], test: Sequence[Any]) -> Summary:
        """Returns the summary of the folder for training and test examples."""
        sizes = {"train": len(train), "test": len(test)}
        return report.summarize(self.version, self.facts, sizes)


def open_source(source: Source) -> Splits:
    """Opens the images of a folder of images and masks in `manual_dir`, without their masks.

    Raises:
      InputError: see `open_folder`; or the source uses labels.
    """
    if source.use_labels:
        raise errors.InputError(
            "data set 'mask_folder' has masks, but no labels of images; set data.use_labels=False,"
            " and evaluate with its masks by eval.dense"
        )
    if source.options:
        raise errors.InputError("data set 'mask_folder' takes no data.options; remove them")
    opened = open_folder(source.dir, source.manual_dir)
    train, test = (opened.examples(text) for text in (source.train_split, source.test_split))
    summary = opened.summary(train, test)
    images = [train.images, test.images]
    if source.mock_examples:
        images = [folder.random_images(source.mock_examples, 1, seed) for seed in range(2)]
    return Splits(
        opened.version,
        num_classes=opened.num_classes,
        channels=3,
        train=images[0],
        test=images[1],
        class_names=opened.class_names,
        summary=summary,
        display_name=opened.display_name,
    )


def open_folder(data_dir: str, root: str) -> MaskFolder:
    """Opens ROOT/images with ROOT/masks, with or without splits, or images next to their masks.

    Without folders of splits, a tenth of the images is the test split, by a hash of their names.
    A file classes.txt or classes.json in ROOT names the classes.

    Args:
      data_dir: folder of prepared data sets, which holds the index of inspected files.
      root: the folder.

    Raises:
      InputError: the folder does not exist, no image has a mask, too many pairs cannot be used, or
        there are fewer than two classes.
    """
    inspected = _inspect(data_dir, root)
    root, tree, parts, names = inspected.root, inspected.tree, inspected.parts, inspected.names
    mask_pairing.check(root, inspected.matched)
    report.check_damage(root, inspected.problems, len(inspected.matched.pairs))
    splits, notes = _splits(root, inspected.pairs)
    counts = {
        name: inspection.count_pixels([parts[pair.mask] for pair in part])
        for name, part in splits.items()
    }
    num_classes = len(names) or max(max(part.keys() - {IGNORED}) for part in counts.values()) + 1
    report.check_classes(root, counts["train"], num_classes)
    orientations = (
        {parts[pair.image].orientation, parts[pair.mask].orientation} for pair in inspected.pairs
    )
    turned = sum(part != {1} for part in orientations)
    facts = report.Facts(root, inspected.unused, names, num_classes, counts, turned, notes)
    return MaskFolder(root, tree.files, parts, splits, names, num_classes, facts)


def problems(data_dir: str, root: str) -> dict[str, str]:
    """Returns {path: reason} for every file in a folder that is not used."""
    return _inspect(data_dir, root).unused


class _Inspected(NamedTuple):
    """The inspected files of a folder.

    Attributes:
      root: path of the folder.
      tree: the files.
      names: class names; () if unknown.
      matched: pairs and files without a partner.
      parts: results of the inspection, by index of a file.
      pairs: pairs that can be used.
      problems: {path: reason} of images and masks that cannot be used.
    """

    root: str
    tree: Tree
    names: tuple[str, ...]
    matched: Pairing
    parts: Mapping[int, CheckedPart]
    pairs: Sequence[Pair]
    problems: dict[str, str]

    @property
    def unused(self) -> dict[str, str]:
        """The reasons why files are not used, by path."""
        reasons = dict(self.tree.skipped) | self.problems | self.matched.unpaired
        return {display_path(path): reason for path, reason in reasons.items()}


def _inspect(data_dir: str, root: str) -> _Inspected:
    root = _checked_root(root)
    tree, names = file_tree.walk(root), _class_names(root)
    matched = mask_pairing.match([file.path for file in tree.files])
    # The same folder may also be a folder of images, whose index has other results.
    index_file = folder.index_path(data_dir, root)
    index_file = index_file.with_name(f"masks_{index_file.name}")
    parts = inspection.check_parts(root, tree.files, matched.pairs, index_file)
    usable, problems = _usable_pairs(tree, matched.pairs, parts, len(names) or IGNORED)
    return _Inspected(root, tree, names, matched, parts, usable, problems)


def _checked_root(folder_name: str) -> str:
    root = user_paths.expanded(folder_name)
    remedy = "name a folder of images and masks"
    if not folder_name or not os.path.exists(root):
        raise errors.InputError(f"folder '{folder_name}' does not exist; {remedy}")
    if not os.path.isdir(root):
        raise errors.InputError(f"'{folder_name}' is a file; {remedy}")
    return root


def _class_names(root: str) -> tuple[str, ...]:
    """Returns the names in the folder's file of class names; () without such a file."""
    paths = [path for name in _NAME_FILES if os.path.lexists(path := pathlib.Path(root, name))]
    if not paths:
        return ()
    if len(paths) > 1:
        raise errors.InputError(
            f"folder {root} has several files of class names,"
            f" {' and '.join(path.name for path in paths)}; keep one of them"
        )
    try:
        names = class_names_file.read_all(paths[0], f"the file of class names is {paths[0]}")
    except errors.InputError as error:
        raise errors.InputError(
            f"{error}; name the classes in the order of the indices in masks, from 0, without"
            f" {IGNORED}, which marks pixels of no class"
        ) from error
    if not 2 <= len(names) <= IGNORED:
        raise errors.InputError(
            f"{paths[0]} has {len(names):,} class names, but must have from 2 to {IGNORED}; list"
            " one name per class, in the order of the indices in masks"
        )
    label_checks.check_names(names, len(names), str(paths[0]))
    return names


def _usable_pairs(
    tree: Tree, pairs: Sequence[Pair], parts: Mapping[int, CheckedPart], limit: int
) -> tuple[list[Pair], dict[str, str]]:
    """Returns the pairs that can be used, and {path: reason} of the file that prevents it."""
    usable, problems = [], {}
    for pair in pairs:
        kind, reason = inspection.pair_problem(parts[pair.image], parts[pair.mask], limit)
        if reason:
            problems[tree.files[getattr(pair, kind)].path] = reason
        else:
            usable.append(pair)
    return usable, problems


def _splits(root: str, pairs: Sequence[Pair]) -> tuple[dict[str, list[Pair]], list[str]]:
    """Returns the pairs of each split, in the order of a hash of their names, and notes."""
    splits: dict[str, list[Pair]] = {}
    for pair in pairs:
        splits.setdefault(pair.split, []).append(pair)
    notes = []
    if set(splits) <= {"", "train"}:
        splits = _divided(pairs)
        notes.append(
            "a tenth of the images, chosen by a hash of their names, is held out as split 'test'"
        )
    if not splits["train"]:
        raise errors.InputError(
            f"folder {root} has {layout.image_count(len(pairs))} with a mask, too few for training"
            " and testing; add images with masks"
        )
    hashes = {name: layout.hasher(name) for name in splits}
    return {
        name: sorted(part, key=lambda pair: (hashes[name](os.fsencode(pair.key)), pair.key))
        for name, part in splits.items()
    }, notes


def _divided(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Returns splits "train" and "test", with a tenth of the pairs and at least one for testing."""
    images = [layout.Image(i, os.fsencode(pair.key), "") for i, pair in enumerate(pairs)]
    hash_key = layout.hasher("image_folder")
    ordered = sorted(images, key=lambda image: hash_key(image.key))
    count = len(layout.divide(images)["test"]) or 1
    return {
        "train": [pairs[image.index] for image in ordered[count:]],
        "test": [pairs[image.index] for image in ordered[:count]],
    }
