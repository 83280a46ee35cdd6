"""The user's own images, in a folder for each class, read as they are on disk.

`walk` lists the files, `check` looks at each of them once and remembers it, `layout` sorts them
into splits and classes, `describe` says what was found.
"""

import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from rrd_jax import errors
from rrd_jax.data.folder import description, file_tree, inspection, layout, unlabelled_layout
from rrd_jax.data.folder.file_tree import Tree
from rrd_jax.data.folder.folder_examples import FolderExamples
from rrd_jax.data.folder.layout import Layout
from rrd_jax.data.opened import Opened
from rrd_jax.data.source import Source
from rrd_jax.data.sources import split_expressions

_OLD = "image_folder"  # below the folder of prepared sets: copies that earlier versions made


def open_source(source: Source) -> Opened:
    """Opens ROOT/class/ or ROOT/train/class/, ROOT/test/class/ of `manual_dir`.

    Without labels its images may lie anywhere. Its version is a digest of splits, names and
    contents.

    Raises:
      InputError: there is no such folder, its layout can be read in no way or in two, or more than
        a few of its images cannot be read.
    """
    if source.options:
        raise errors.InputError(
            f"data set 'image_folder' takes no data.options ({', '.join(dict(source.options))})"
        )
    root = _root(source.manual_dir, source.use_labels)
    if not source.use_labels:
        return _open_unlabelled(source, root)
    is_new = not index_path(source.dir, root).exists()
    tree, found = _found(source.dir, root)
    description.check_share(root, tree.files, found)
    used, digests = _readable(tree.files, found)
    paths = [file.path for file in used]
    names = _names(source)
    plan = layout.arrange(root, paths, tree.folders, wants_test="test" in names)
    train, test = (
        _examples(root, plan, expression, used, digests)
        for expression in (source.train_split, source.test_split)
    )
    version = f"image_folder/{_digest(plan, digests)}"
    summary = description.summarize(version, root, tree, found, plan, train, test)
    if is_new and (old := old_copies(source.dir)):
        summary = description.with_note(summary, about_old(old))
    if source.mock_examples:
        train, test = (_mocked(source.mock_examples, len(plan.classes), i) for i in range(2))
    return Opened(version, len(plan.classes), 3, train, test, plan.classes, summary)


def _open_unlabelled(source: Source, root: str) -> Opened:
    """The images of a folder, wherever they lie in it."""
    tree = file_tree.walk(root)
    files = unlabelled_layout.chosen(tree.files, source.max_images)
    used = set(files) if len(files) < len(tree.files) else ()
    others = [file for file in tree.files if file not in used] if used else []
    memory = index_path(source.dir, root)
    found = inspection.check_all(root, files, memory, others, compares=True)
    unlabelled_layout.check_share(root, files, found)
    used, digests = _readable(files, found)
    paths = [file.path for file in used]
    plan = unlabelled_layout.arrange(root, paths, wants_test="test" in _names(source))
    train, test = (
        _examples(root, plan, expression, used, digests)
        for expression in (source.train_split, source.test_split)
    )
    version = f"image_folder/{_digest(plan, digests)}"
    tree = tree._replace(files=files)
    summary = unlabelled_layout.summarize(version, root, tree, found, plan, (train, test))
    if source.mock_examples:
        train, test = (_mocked(source.mock_examples, 1, i) for i in range(2))
    return Opened(version, 0, 3, train, test, (), summary)


def splits(folder: str, manual_dir: str) -> tuple[dict[str, FolderExamples], tuple[str, ...]]:
    """All splits of a folder of images, and its classes.

    Raises:
      InputError: as `open_source`.
    """
    root = _root(manual_dir)
    tree, found = _found(folder, root)
    description.check_share(root, tree.files, found)
    used, digests = _readable(tree.files, found)
    plan = layout.arrange(root, [file.path for file in used], tree.folders)
    named = (name for name, part in plan.splits.items() if part)
    return {name: _examples(root, plan, name, used, digests) for name in named}, plan.classes


def problems(folder: str, manual_dir: str) -> dict[str, str]:
    """Path and reason of all in a folder of images that is not read."""
    return description.problems(*_found(folder, _root(manual_dir)))


def prepared_dir(folder: str) -> pathlib.Path:
    """Where TFDS keeps prepared sets."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(folder or default).expanduser()


def index_path(folder: str, root: str) -> pathlib.Path:
    """The file that remembers what was found in a folder of images."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:16]
    return prepared_dir(folder) / "image_folder_index" / f"{name}.json"


def old_copies(folder: str) -> list[pathlib.Path]:
    """What earlier versions prepared."""
    try:
        return [path.parents[1] for path in prepared_dir(folder).glob(f"{_OLD}/*/*/features.json")]
    except OSError:
        return []


def about_old(copies: Sequence[pathlib.Path]) -> str:
    """What to do about old copies."""
    places = " ".join(map(str, copies[:3])) if len(copies) <= 3 else str(copies[0].parent)
    return (
        f"what earlier versions prepared of image folders ({len(copies)}) is no longer used:"
        f" rm -r {places}"
    )


def _found(folder: str, root: str) -> tuple[Tree, list[inspection.Checked]]:
    tree = file_tree.walk(root)
    return tree, inspection.check_all(root, tree.files, index_path(folder, root))


def _readable(
    files: Sequence[file_tree.File], found: Sequence[inspection.Checked]
) -> tuple[list[file_tree.File], list[str]]:
    """The files that are images, and their digests."""
    images = [i for i, checked in enumerate(found) if checked.format]
    return [files[i] for i in images], [found[i].digest for i in images]


def _root(manual_dir: str, use_labels: bool = True) -> str:
    root = os.path.expanduser(manual_dir)
    how = "--config.data.manual_dir=FOLDER (of rrd_jax.data.prepare, --manual_dir=FOLDER)"
    way_out = f"name the folder that holds a folder of images for each class, {how}"
    if not use_labels:
        way_out = f"name a folder that holds images, at any depth, {how}"
    if not manual_dir or not os.path.exists(root):
        raise errors.InputError(f"image folder '{manual_dir}' does not exist: {way_out}")
    if not os.path.isdir(root):
        raise errors.InputError(f"image folder '{manual_dir}' is a file: {way_out}")
    real = os.path.realpath(root)
    if real == os.path.sep or real.split(os.sep)[1] in ("proc", "sys", "dev"):
        raise errors.InputError(f"image folder '{manual_dir}' is the system's: {way_out}")
    return root


def _names(source: Source) -> set[str]:
    """The splits that are asked for."""
    return {
        _canonical(part.name)
        for expression in (source.train_split, source.test_split)
        for part in _parse(expression)
    }


def _parse(expression: str) -> list[split_expressions.Slice]:
    try:
        return split_expressions.parse(expression)
    except ValueError as error:
        raise errors.InputError(
            f"split '{expression}' of data set 'image_folder' cannot be read ({error})"
        ) from error


def _canonical(name: str) -> str:
    """Splits may be called as their folders are."""
    return layout.SPLITS.get(name.lower(), name)


def _examples(
    root: str,
    plan: Layout,
    expression: str,
    files: Sequence[file_tree.File],
    digests: Sequence[str],
) -> FolderExamples:
    """The images of a split expression."""
    chosen = []
    try:
        for part in _parse(expression):
            name = _canonical(part.name)
            if name == "test" and name not in plan.splits and "validation" in plan.splits:
                name = "validation"
                plan.notes.append(
                    f"{root} has no test images: split '{expression}' is of its validation images"
                )
            if name not in plan.splits:
                raise ValueError(f"there is no '{part.name}'")
            images = plan.splits[name]
            places = part.rows(len(images))
            chosen += images[places.start : places.stop]
        if not chosen:
            raise ValueError("it is empty")
    except ValueError as error:
        if isinstance(error, errors.InputError):
            raise
        raise errors.InputError(
            f"split '{expression}' of data set 'image_folder' cannot be read ({error}); its splits:"
            f" {', '.join(plan.splits)}, or parts such as train[90%:]"
        ) from error
    labels = {name: i for i, name in enumerate(plan.classes or ("",))}
    return FolderExamples(
        root,
        [files[image.place].path for image in chosen],
        [image.key for image in chosen],
        [labels[image.label] for image in chosen],
        [digests[image.place] for image in chosen],
        inspection.settled([files[image.place] for image in chosen]),
    )


def _digest(plan: Layout, digests: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for split, images in sorted(plan.splits.items()):
        for image in images:
            digest.update(f"{split} {image.label} {digests[image.place]} ".encode())
            digest.update(image.key + b"\0")
    return digest.hexdigest()[:16]


def _mocked(number: int, classes: int, seed: int) -> list[Mapping]:
    """Random images in place of the folder's."""
    rng = np.random.default_rng(seed)
    return [
        {"image": rng.integers(0, 256, (64, 64, 3), np.uint8), "label": i % classes}
        for i in range(number)
    ]
