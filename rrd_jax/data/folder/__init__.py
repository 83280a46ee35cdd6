"""Data sets from folders of images, which are read in place.

`file_tree` lists the files, `inspection` checks each file once and stores the results in an index,
`layout` sorts the images into splits and classes (`unlabelled_layout` only into splits, and
`mask_pairing` matches images with masks), and `folder_summary` reports the results.
"""

import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rrd_jax import errors, user_paths
from rrd_jax.data.folder import (
    file_tree,
    folder_summary,
    inspection,
    layout,
    mask_pairing,
    unlabelled_layout,
)
from rrd_jax.data.folder.file_tree import File, Tree
from rrd_jax.data.folder.folder_examples import FolderExamples
from rrd_jax.data.folder.inspection import CheckedFile
from rrd_jax.data.folder.layout import Layout
from rrd_jax.data.source import Source
from rrd_jax.data.sources import split_expressions
from rrd_jax.data.splits import Splits


def open_source(source: Source) -> Splits:
    """Opens ROOT/CLASS/, or ROOT/train/CLASS/ and ROOT/test/CLASS/, in the folder `manual_dir`.

    Without labels, images are found at any depth. The version is a digest of splits, names and
    contents.

    Raises:
      InputError: the folder does not exist, its layout is invalid or ambiguous, or too many of its
        images cannot be read.
    """
    if source.options:
        raise errors.InputError(
            f"data set 'image_folder' takes no data.options ({', '.join(dict(source.options))});"
            " remove them"
        )
    expressions = (source.train_split, source.test_split)
    names = {_canonical(part.name) for text in expressions for part in _parse(text)}
    folder = _inspect(
        source.dir,
        source.manual_dir,
        use_labels=source.use_labels,
        needs_test="test" in names,
        max_images=None if source.use_labels else source.max_images,
    )
    train, test = (folder.examples(text) for text in expressions)
    plan = folder.plan
    if not source.use_labels:
        plan.warnings.extend(mask_pairing.describe_masks(folder.root, folder.files))
    version = f"image_folder/{folder.digest()}"
    summary = folder_summary.summarize(
        version, folder.root, folder.tree, folder.checked, plan, train, test, source.background
    )
    if source.mock_examples:
        train, test = (
            random_images(source.mock_examples, len(plan.classes) or 1, seed) for seed in range(2)
        )
    return Splits(
        version,
        num_classes=len(plan.classes),
        channels=3,
        train=train,
        test=test,
        class_names=plan.classes,
        summary=summary,
        display_name=errors.printable(os.path.basename(os.path.abspath(folder.root))),
    )


def open_splits(
    data_dir: str, manual_dir: str
) -> tuple[dict[str, FolderExamples], tuple[str, ...]]:
    """Returns all splits of a folder of images, by name, and its classes.

    Raises:
      InputError: see `open_source`.
    """
    folder = _inspect(data_dir, manual_dir)
    named = (name for name, images in folder.plan.splits.items() if images)
    return {name: folder.examples(name) for name in named}, folder.plan.classes


def problems(data_dir: str, manual_dir: str) -> dict[str, str]:
    """Returns {path: reason} for every file in a folder of images that cannot be used."""
    root = _check_root(manual_dir)
    tree = file_tree.walk(root)
    checked = inspection.check_all(root, tree.files, index_path(data_dir, root))
    return folder_summary.problems(tree, checked)


def index_path(data_dir: str, root: str) -> pathlib.Path:
    """Returns the path of the index file for a folder of images."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:16]
    prepared = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(prepared).expanduser() / "image_folder_index" / f"{name}.json"


class _Folder(NamedTuple):
    """An inspected folder of images.

    Attributes:
      root: path of the folder.
      tree: files, folders and skipped entries below the root.
      checked: inspection result of each file in the tree.
      plan: splits and classes of the images.
      files: the files that are images; the layout refers to them by index.
      digests: content digest of each image in `files`.
    """

    root: str
    tree: Tree
    checked: list[CheckedFile]
    plan: Layout
    files: list[File]
    digests: list[str]

    def digest(self) -> str:
        """Returns a digest of splits, names, classes and contents."""
        digest = hashlib.sha256()
        for split, images in sorted(self.plan.splits.items()):
            for image in images:
                digest.update(f"{split} {image.label} {self.digests[image.index]} ".encode())
                digest.update(image.key + b"\0")
        return digest.hexdigest()[:16]

    def examples(self, expression: str) -> FolderExamples:
        """Returns the images of a split expression."""
        plan = self.plan
        chosen = select_parts(plan.splits, expression, "image_folder", self.root, plan.notes)
        labels = {name: i for i, name in enumerate(plan.classes or ("",))}
        files = [self.files[image.index] for image in chosen]
        return FolderExamples(
            root=self.root,
            paths=[file.path for file in files],
            names=[image.key for image in chosen],
            labels=[labels[image.label] for image in chosen],
            digests=[self.digests[image.index] for image in chosen],
            states=inspection.trusted_states(files),
        )


def select_parts(
    splits: Mapping[str, Sequence[Any]],
    expression: str,
    name: str,
    root: str,
    notes: list[str],
) -> list[Any]:
    """Returns the examples of a split expression.

    Args:
      splits: examples by the name of their split.
      expression: a TFDS expression; test stands for validation in a folder without test images.
      name: name of the data set, for messages.
      root: the folder.
      notes: list to which such a replacement is added.

    Raises:
      InputError: the split is unknown or empty.
    """
    chosen = []
    try:
        for part in _parse(expression, name):
            split = _canonical(part.name)
            if split == "test" and split not in splits and "validation" in splits:
                split = "validation"
                notes.append(
                    f"{root} has no test images; split '{expression}' uses its validation images"
                )
            if split not in splits:
                raise ValueError(f"unknown split '{part.name}'")
            rows = part.rows(len(splits[split]))
            chosen += splits[split][rows.start : rows.stop]
        if not chosen:
            raise ValueError("the split is empty")
    except ValueError as error:
        if isinstance(error, errors.InputError):
            raise
        raise errors.InputError(
            f"split '{expression}' of data set '{name}' cannot be read ({error}); available"
            f" splits: {', '.join(splits)}, or parts such as train[90%:]"
        ) from error
    return chosen


def _inspect(
    data_dir: str,
    manual_dir: str,
    *,
    use_labels: bool = True,
    needs_test: bool = True,
    max_images: int | None = None,
) -> _Folder:
    root = _check_root(manual_dir, use_labels)
    tree = file_tree.walk(root)
    files = unlabelled_layout.choose(tree.files, max_images)
    used = set(files)
    checked = inspection.check_all(
        root,
        files,
        index_path(data_dir, root),
        others=[file for file in tree.files if file not in used],
        report_changes=not use_labels,
    )
    folder_summary.check_damage(root, files, checked, use_labels=use_labels)
    images = [(f, result.digest) for f, result in zip(files, checked, strict=True) if result.format]
    paths = [file.path for file, _ in images]
    if use_labels:
        plan = layout.arrange(root, paths, tree.folders, needs_test=needs_test)
    else:
        plan = unlabelled_layout.arrange(root, paths, needs_test=needs_test)
    return _Folder(
        root=root,
        tree=tree._replace(files=files),
        checked=checked,
        plan=plan,
        files=[file for file, _ in images],
        digests=[digest for _, digest in images],
    )


def _check_root(manual_dir: str, use_labels: bool = True) -> str:
    root = user_paths.expanded(manual_dir)
    flag = "--config.data.manual_dir=FOLDER (for rrd_jax.data.prepare: --manual_dir=FOLDER)"
    remedy = f"name the folder that holds one folder of images per class with {flag}"
    if not use_labels:
        remedy = f"name a folder that holds images, at any depth, with {flag}"
    if not manual_dir or not os.path.exists(root):
        raise errors.InputError(f"image folder '{manual_dir}' does not exist; {remedy}")
    if not os.path.isdir(root):
        raise errors.InputError(f"image folder '{manual_dir}' is a file; {remedy}")
    return root


def _parse(expression: str, name: str = "image_folder") -> list[split_expressions.Slice]:
    try:
        return split_expressions.parse(expression)
    except ValueError as error:
        raise errors.InputError(
            f"split '{expression}' of data set '{name}' cannot be read ({error})"
        ) from error


def _canonical(name: str) -> str:
    """Returns the standard name of a split; folder names such as "val" are accepted as well."""
    return layout.SPLITS.get(name.lower(), name)


def random_images(number: int, classes: int, seed: int) -> Sequence[Mapping]:
    """Returns random examples that replace the images of the folder."""
    rng = np.random.default_rng(seed)
    return [
        {"image": rng.integers(0, 256, (64, 64, 3), np.uint8), "label": i % classes}
        for i in range(number)
    ]
