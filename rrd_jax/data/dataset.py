"""Opens data sets, with feeds of the training and test split."""

import dataclasses
import importlib
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rrd_jax import errors, user_paths
from rrd_jax.data import class_names_file, label_checks, sanity
from rrd_jax.data.augment.views import Views
from rrd_jax.data.feeds import feed
from rrd_jax.data.feeds.image_cache import CacheOptions
from rrd_jax.data.images import decoding, partial_decoding
from rrd_jax.data.source import Source
from rrd_jax.data.splits import Splits, Summary
from rrd_jax.data.subsets import degraded
from rrd_jax.settings import kinds
from rrd_jax.terminal import console

_RESIDENT_BYTES = 4e9
# Examples of a streamed split that are read only for their labels.
_MAX_LABELS_READ = 10_000
# With fewer test images, a top-1 of 90 percent has a standard error above 1.3 points.
_MIN_TEST_IMAGES = 500
# Number of images whose size is compared with data.image_size, and the smallest share of the padded
# area that their longest side may cover without a warning.
_SAMPLE_SIZE, _MIN_COVERED = 4, 0.5
# Modules with a function `open_source` by kind of data set, imported on use.
_MODULES = {
    "tfds": "sources.prepared",
    "folder": "folder",
    "masks": "masks",
    "hf": "sources.huggingface",
    "import path": "sources.imported",
    "wds": "shards",
}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """An opened data set.

    Attributes:
      version: name and version in TFDS; a digest of names and contents for image folders, and of
        labels and a few examples for other sources. The version of degraded training data also has
        the degradation and a digest.
      num_classes: C; without labels 0, or the teacher's number of classes if its logits are
        compared.
      image_shape: (H, W, channels) of the networks' images.
      train: the training split.
      test: the test split.
      validation: training images that are held out for the choice of the best checkpoint; None for
        none.
      class_names: names of the data set or of a file, in the order of labels; () if unknown.
      summary: lines and warnings that are logged before training, and details for data.json.
      reopen: opens the data with another source, as for a teacher with other training images.
      labelled: whether the student learns from labels; if False, labels of the feeds are invalid.
      labelled_subset: other labeled images for the evaluation of embeddings; None for none.
      masked_subset: images with masks for the evaluation of patches, a
        `subsets.masked_subset.MaskedSubset`; None for none.
      display_name: name for people: the version, or for a folder its name.
      code: the import path or the Python objects of a custom source; () for other data.
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
    masked_subset: Any = None
    display_name: str = ""
    code: tuple[Any, ...] = ()
    validation: feed.Resident | feed.Streamed | None = None

    def on_validation(self) -> "Dataset":
        """Returns the data set with the validation images as its test split."""
        return dataclasses.replace(self, test=self.validation, validation=None)

    def check_labels(self, source: Source) -> list[str]:
        """Returns warnings about classes without images; see `label_checks.check_splits`.

        Labels that are not listed are read from resident splits, whose images are decoded for
        training, and from small streamed splits. Random images are not checked.

        Args:
          source: the source of the data set, for messages.

        Raises:
          InputError: a label is out of range, training images have only one class, or test images
            have classes without training images.
        """
        if not self.labelled or source.mock_examples:
            return []
        parts = [(source.train_split, self.train), (source.test_split, self.test)]
        if self.validation is not None:
            parts.append(("validation", self.validation))
        labels = []
        for name, part in parts:
            listed = getattr(part.examples, "listed_labels", None)
            if listed is None and part.on_device:
                listed = part.labels
            elif listed is None and len(part) > _MAX_LABELS_READ:
                return []
            elif listed is None:
                listed = degraded.labels_of(part.examples)
            labels.append((name, np.asarray(listed)))
            sanity.check_labels(labels[-1][1], self.num_classes, name)
        return label_checks.check_splits(labels, self.num_classes, self.class_names)

    @property
    def resize(self) -> int | None:
        """Shorter side that test images are scaled to before their center crop.

        None if smaller images are padded with black and larger images are scaled.
        """
        return getattr(self.test, "resize", None)

    @property
    def background(self) -> str:
        """The color behind transparent pixels; see `settings.kinds.Color`."""
        return self.test.background

    @property
    def pixels_version(self) -> str:
        """The version, with the fields of the preprocessing that change pixels.

        Names of caches contain this text. Values that version 0.2.0 used are omitted.
        """
        resize = "" if self.resize in (None, 256) else f", resize {self.resize}"
        has_color = self.background != kinds.NO_COLOR
        return f"{self.version}{resize}{f', on {self.background}' if has_color else ''}"


def load(source: Source) -> Dataset:
    """Opens a data set by name, and prepares it first if its source files are on the machine.

    Raises:
      InputError: the name or split is unknown, the data set is not prepared, or the data are
        invalid; the message names a remedy.
    """
    if not source.name:
        raise errors.FieldError(
            "no data set: data.name is empty; name a data set, or pass train= and test= in Python"
        )
    module = importlib.import_module(f"rrd_jax.data.{_MODULES[source.kind]}")
    dataset = _dataset(source, module.open_source(_localized(source)), load)
    return dataclasses.replace(dataset, code=(source.name,))


def _localized(source: Source) -> Source:
    """Returns a source without paths in buckets; see `bucket_sources.localize`."""
    places = (source.dir, source.manual_dir, os.environ.get("TFDS_DATA_DIR", ""))
    if source.kind != "wds" and not any(map(user_paths.bucket_url, places)):
        return source
    from rrd_jax.data import bucket_sources

    return bucket_sources.localize(source)


def from_sources(
    train: Any, test: Any = None, source: Source | None = None, *, num_classes: int | None = None
) -> Dataset:
    """Builds a data set from random-access sources or arrays.

    Args:
      train: a source with `__len__` and `__getitem__`, which returns mappings with `image` and
        `label`, or pairs (image, label); or a pair of arrays, images uint8 [N, H, W, channels] and
        labels [N]. Images of a source may be encoded bytes, PIL images, uint8 arrays, or float
        arrays in [0, 1] with channels first or last.
      test: the test split in one of these forms; None if `source` uses parts of `train`, such as
        test_split="train[90%:]".
      source: preprocessing and split expressions of "train" and "test"; the name is ignored. None
        for the defaults.
      num_classes: C; None to infer the number from the source.

    Raises:
      InputError: an example is invalid; the message describes the example.

    Examples:
      >>> import numpy as np
      >>> images, labels = np.zeros((20, 8, 8, 1), np.uint8), np.arange(20) % 10
      >>> dataset = from_sources((images, labels), (images, labels), Source(image_size=8))
      >>> dataset.num_classes, dataset.image_shape, len(dataset.train)
      (10, (8, 8, 1), 20)
    """
    # The import needs PIL, which `load` may not need.
    from rrd_jax.data.sources import imported

    source = source or Source()
    splits = {"train": train} if test is None else {"train": train, "test": test}
    opened = imported.open_splits(source, splits, num_classes=num_classes)

    def reopen(other: Source) -> Dataset:
        return from_sources(train, test, other, num_classes=opened.num_classes)

    return dataclasses.replace(_dataset(source, opened, reopen), code=(train, test))


def _dataset(source: Source, splits: Splits, reopen: Callable[[Source], Dataset]) -> Dataset:
    if not source.use_labels:
        splits = splits.without_labels()
    elif splits.num_classes < 2:
        raise errors.InputError(
            f"data set '{source.name or 'data'}' has {splits.num_classes} class, but training needs"
            " at least two; use other data, or set data.use_labels=False"
        )
    if source.class_names and source.use_labels:
        class_names = class_names_file.read(
            pathlib.Path(source.class_names), splits.num_classes, "data.class_names"
        )
        splits = dataclasses.replace(splits, class_names=class_names)
    splits = _with_checked_names(source, splits)
    splits = degraded.degrade(source, splits)
    parts = [splits.train, splits.test]
    if splits.validation is not None:
        parts.append(splits.validation)
    train, test, *validation = _feeds(source, parts, splits.channels)
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
        display_name=splits.display_name or splits.version,
        validation=validation[0] if validation else None,
    )


def _with_checked_names(source: Source, splits: Splits) -> Splits:
    """Returns splits with warnings about their class names; raises an InputError if invalid."""
    if not splits.class_names:
        return splits
    subject = f"data set '{source.name or 'data'}'"
    warnings = label_checks.check_names(splits.class_names, splits.num_classes, subject)
    return dataclasses.replace(splits, summary=splits.summary + Summary(warnings=tuple(warnings)))


def _summarize(source: Source, splits: Splits) -> Summary:
    """Returns the summary of the source, extended by details and warnings about the splits."""
    details = {
        "version": splits.version,
        "classes": list(splits.class_names) or splits.num_classes,
        "images": {"train": len(splits.train), "test": len(splits.test)},
    }
    if splits.validation is not None:
        details["images"]["val"] = len(splits.validation)
    warnings, images = [], len(splits.test)
    if splits.shared:
        warnings.append(
            f"{splits.shared:,} examples are both in data.train_split '{source.train_split}' and in"
            f" data.test_split '{source.test_split}'; use disjoint splits, because"
            " the test metrics are too optimistic"
        )
    if source.use_labels and not source.mock_examples and images < _MIN_TEST_IMAGES:
        at_90, at_50 = (100 * math.sqrt(p * (1 - p) / images) for p in (0.9, 0.5))
        warnings.append(
            f"only {images:,} test images: the standard error of top-1 is {at_90:.1f} points at"
            f" 90 % and {at_50:.1f} points at 50 %; differences below about {2 * at_90:.0f} to"
            f" {2 * at_50:.0f} points are not significant"
        )
    if padding := _describe_padding(source, splits.train):
        warnings.append(padding)
    return Summary(details=details) + splits.summary + Summary(warnings=tuple(warnings))


def _describe_padding(source: Source, examples: Sequence[dict[str, Any]]) -> str:
    """Returns a warning if padding covers most of every image of a sample; "" otherwise."""
    if source.crops_on_host or source.mock_examples:
        return ""
    indices = {i * (len(examples) - 1) // (_SAMPLE_SIZE - 1) for i in range(_SAMPLE_SIZE)}
    images = [examples[i]["image"] for i in sorted(indices)]
    sizes = [decoding.size(x) if isinstance(x, bytes) else x.shape[:2] for x in images]
    longest, size = max(map(max, sizes)), source.image_size
    if not 0 < longest**2 < _MIN_COVERED * size**2:
        return ""
    return (
        f"images of at most {longest} pixels cover at most {100 * (longest / size) ** 2:.2g} % of"
        f" data.image_size {size} x {size}, and the rest is black; set data.image_size to"
        f" {max(longest, kinds.PIXELS.minimum)}"
    )


def _feeds(
    source: Source, splits: list[Sequence[dict[str, Any]]], channels: int
) -> list[feed.Resident] | list[feed.Streamed]:
    """Returns feeds of the training split and of the other splits, resident or streamed."""
    size = source.image_size
    too_large = sum(map(len, splits)) * size**2 * channels > _RESIDENT_BYTES
    streams = source.crops_on_host or source.feed == "streamed"
    if not streams and not (source.feed == "auto" and too_large):
        return [feed.Resident(split, size, channels, source.background) for split in splits]
    test = feed.Streamed(
        splits[1],
        size,
        channels,
        source.background,
        resize=source.resize if source.crops_on_host else None,
        area=source.crop_area,
        views=Views(source.views, source.views_seed),
    )
    # The test split is loaded by threads: worker processes would restart for every evaluation.
    train = dataclasses.replace(
        test,
        examples=splits[0],
        workers=source.workers,
        decode_crop_only=_decodes_crops_only(source),
        cache_options=CacheOptions(source.keep, source.keep_share),
    )
    return [train, test, *(dataclasses.replace(test, examples=part) for part in splits[2:])]


def _decodes_crops_only(source: Source) -> bool:
    """Returns True if only the crop of a JPEG is decoded."""
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
