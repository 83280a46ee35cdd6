"""Opens a data set: its training and test split, ready to feed the networks."""

import dataclasses
import importlib
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from rrd_jax import errors
from rrd_jax.data import class_names_file
from rrd_jax.data.augment.views import Views
from rrd_jax.data.feeds import feed
from rrd_jax.data.feeds.image_cache import CacheOptions
from rrd_jax.data.images import partial_decoding
from rrd_jax.data.source import Source
from rrd_jax.data.splits import Splits, Summary
from rrd_jax.data.subsets import degraded
from rrd_jax.terminal import console

_RESIDENT_BYTES = 4e9
# With fewer test images, a top-1 of 90 % has a standard error above 1.3 points.
_FEW = 500
# By kind of name: the module whose `open_source` opens such a set, imported for those alone.
_MODULES = {
    "tfds": "sources.prepared",
    "folder": "folder",
    "hf": "sources.huggingface",
    "import path": "sources.imported",
}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What training needs of a data set.

    Attributes:
      version: name and version as TFDS writes them; of an image folder a digest of names and
        contents; of other sources a digest of labels and of a few examples. Of training data that
        are made worse on purpose it says how, with a digest.
      num_classes: C; without labels 0, or as many as the teacher has where its logits are compared.
      image_shape: (H, W, channels) as the networks see them.
      train: the training split.
      test: the test split.
      class_names: as the data name them, or a file does, in the order of labels; () where they are
        not known.
      summary: what to say of them before training.
      reopen: the same data read by another source, as that of a teacher who sees others of them.
      labelled: whether a student learns from their labels; if not, the feeds' labels mean nothing.
      labelled_subset: other images with labels, on which embeddings are evaluated; None for none.
    """

    version: str
    num_classes: int
    image_shape: tuple[int, int, int]
    train: feed.Resident | feed.Streamed
    test: feed.Resident | feed.Streamed
    class_names: tuple[str, ...] = ()
    summary: Summary = dataclasses.field(default_factory=Summary)
    reopen: Callable[[Source], "Dataset"] | None = None
    labelled: bool = True
    labelled_subset: "Dataset | None" = None

    @property
    def resize(self) -> int | None:
        """The short side that test images are scaled to before their centre is cut out.

        None where smaller ones are centred on black and larger ones scaled.
        """
        return getattr(self.test, "resize", None)


def load(source: Source) -> Dataset:
    """Opens a data set by name, preparing it first where its source is on the machine.

    Raises:
      InputError: unknown name or split, a set that is not prepared, with what to do, or data that
        are not as they must be.
    """
    if not source.name:
        raise errors.InputError(
            "there are no images: data.name is empty; name a data set, or pass train= and test= in"
            " Python"
        )
    module = importlib.import_module(f"rrd_jax.data.{_MODULES[source.kind]}")
    return _dataset(source, module.open_source(source), load)


def from_sources(
    train: Any, test: Any = None, source: Source | None = None, *, num_classes: int | None = None
) -> Dataset:
    """A data set of what a program has: random-access sources, or arrays.

    Args:
      train: a source, with `__len__` and `__getitem__`, which gives mappings with `image` and
        `label`, or pairs of them; or a pair of arrays, images [N, H, W, channels] uint8 and
        labels [N]. Images may be encoded, PIL images, arrays of uint8, or of floats in [0, 1],
        then with their channels first or last.
      test: likewise; None where `source` names parts of `train`, as test_split="train[90%:]".
      source: the form to read images in, by fields other than `name`; of the splits "train" and
        "test" it may take parts. None for its defaults.
      num_classes: C; None to find it, as for a source by import path.

    Raises:
      InputError: an example that is not as it must be; it says what was found.

    Examples:
      >>> import numpy as np
      >>> images, labels = np.zeros((20, 8, 8, 1), np.uint8), np.arange(20) % 10
      >>> dataset = from_sources((images, labels), (images, labels), Source(image_size=8))
      >>> dataset.num_classes, dataset.image_shape, len(dataset.train)
      (10, (8, 8, 1), 20)
    """
    from rrd_jax.data.sources import imported  # it needs PIL, which `load` may do without

    source = source or Source()
    splits = {"train": train} if test is None else {"train": train, "test": test}
    opened = imported.open_splits(source, splits, num_classes=num_classes)

    def reopen(other: Source) -> Dataset:
        return from_sources(train, test, other, num_classes=opened.num_classes)

    return _dataset(source, opened, reopen)


def _dataset(source: Source, splits: Splits, reopen: Callable[[Source], Dataset]) -> Dataset:
    if not source.use_labels:
        splits = splits.without_labels()
    elif splits.num_classes < 2:
        raise errors.InputError(
            f"data set '{source.name or 'data'}' has {splits.num_classes} class, and nothing to"
            " tell it from: networks need two or more"
        )
    if source.class_names and source.use_labels:
        class_names = class_names_file.read(
            pathlib.Path(source.class_names), splits.num_classes, "data.class_names"
        )
        splits = dataclasses.replace(splits, class_names=class_names)
    splits = degraded.degrade(source, splits)
    train, test = _feeds(source, [splits.train, splits.test], splits.channels)
    return Dataset(
        version=splits.version,
        num_classes=splits.num_classes,
        image_shape=(source.image_size, source.image_size, splits.channels),
        train=train,
        test=test,
        class_names=splits.class_names,
        summary=_summarize(source, splits),
        reopen=reopen,
        labelled=source.use_labels,
    )


def _summarize(source: Source, splits: Splits) -> Summary:
    """Returns what is reported about open splits, in addition to what their source reports."""
    figures = {
        "version": splits.version,
        "classes": list(splits.class_names) or splits.num_classes,
        "images": {"train": len(splits.train), "test": len(splits.test)},
    }
    warnings, images = [], len(splits.test)
    if splits.shared:
        warnings.append(
            f"{splits.shared:,} examples are both in data.train_split '{source.train_split}' and in"
            f" data.test_split '{source.test_split}': the figures will be too good"
        )
    if source.use_labels and not source.mock_examples and images < _FEW:
        at_90, at_50 = (100 * math.sqrt(p * (1 - p) / images) for p in (0.9, 0.5))
        warnings.append(
            f"{images:,} test images: a top-1 of 90 % has a standard error of {at_90:.1f} points,"
            f" one of 50 % of {at_50:.1f}; differences below about {2 * at_90:.0f} to"
            f" {2 * at_50:.0f} points mean nothing"
        )
    return Summary(figures=figures) + splits.summary + Summary(warnings=tuple(warnings))


def _feeds(
    source: Source, splits: list[Sequence[dict[str, Any]]], channels: int
) -> list[feed.Resident] | list[feed.Streamed]:
    """Returns feeds of the training and the test split, resident or streamed."""
    size = source.image_size
    too_large = sum(map(len, splits)) * size**2 * channels > _RESIDENT_BYTES
    streams = source.crops_on_host or source.feed == "streamed"
    if not streams and not (source.feed == "auto" and too_large):
        return [feed.Resident(split, size, channels) for split in splits]
    test = feed.Streamed(
        splits[1],
        size,
        channels,
        resize=source.resize if source.crops_on_host else None,
        area=source.crop_area,
        views=Views(source.views, source.views_seed),
    )
    # The test split keeps threads: processes would be started anew for every test.
    train = dataclasses.replace(
        test,
        examples=splits[0],
        workers=source.workers,
        by_parts=_decodes_by_parts(source),
        keep=CacheOptions(source.keep, source.keep_share),
    )
    return [train, test]


def _decodes_by_parts(source: Source) -> bool:
    """Returns True if no more of a JPEG is decoded than its crop."""
    if not source.crops_on_host or source.decoder == "cv2":
        return False
    if source.decoder == "auto" and not partial_decoding.is_installed():
        return False
    try:
        partial_decoding.check_usable()
    except errors.InputError as error:
        if source.decoder != "auto":
            raise
        console.warn(str(error))
        return False
    return True
