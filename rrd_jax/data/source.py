"""The images that a job reads, and how: names and numbers, checked before a file is opened."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from rrd_jax import errors, settings
from rrd_jax.settings import field, kinds, unless

FEEDS = ("auto", "resident", "streamed")
KEEPS = ("auto", "on", "off")
DECODERS = ("auto", "cv2", "nvimgcodec")
# Augmentations that the compiled step makes, and those that the host makes as it decodes an image.
DEVICE_AUGMENTATIONS = ("none", "crop_flip", "resized_crop")
HOST_AUGMENTATIONS = ("random_resized",)
NOISES = ("symmetric", "asymmetric")
_IF_STREAMED = unless("data.feed", "auto", "streamed")
_IF_CUT_ON_HOST = unless("data.augment", *HOST_AUGMENTATIONS)
_IF_REAL = unless("data.mock_examples", 0)


def _without_import_path(values: settings.Values) -> str:
    name = values["data.name"]
    return "" if ":" in name else f"data.name is '{name}'"


def _all(name: str, values: settings.Values) -> list[Any]:
    """Returns a field of the data, and of every teacher that has a network."""
    return [values[f"data.{name}"], *(v[f"teacher.{name}"] for v in values.with_models())]


def _without_noise(values: settings.Values) -> str:
    return "" if any(_all("label_noise", values)) else "there is no label noise"


def _without_choice(values: settings.Values) -> str:
    is_thinned = not values["data.mock_examples"] and (
        any((share or 1) < 1 for share in _all("share", values))
        or any(_all("per_class", values))
        or any((ratio or 1) > 1 for ratio in _all("imbalance", values))
    )
    if is_thinned or not _without_noise(values):
        return ""
    return "there is neither label noise, nor are images left out"


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set and the form that its images are read in.

    The mapping `options` becomes a tuple of pairs.

    Attributes:
      name: digits, fashion_mnist, cifar10, cifar100, stl10, tiny_imagenet, imagenet2012,
        image_folder, any TFDS set of labelled images, an import path such as my_data:source of
        random-access sources, or hf:PATH for a Hugging Face data set on disk.
      dir: Where prepared sets are; '' for TFDS_DATA_DIR or ~/tensorflow_datasets.
      manual_dir: The folder of images of image_folder, which is read in place; or that of
        fashion_mnist's files, where '' is Debian's folder.
      train_split: TFDS split expressions, such as train[:90%].
      test_split: validation for imagenet2012 and tiny_imagenet. Where a folder of images has no
        test, test is its val.
      image_size: Height and width; smaller images are centred on black, larger ones scaled.
      resize: random_resized only: short side that test images are scaled to before their central
        crop.
      crop_area: random_resized and resized_crop only: the smallest part of an image; MoCo-v2's is
        0.2.
      views: Above 0: that many views of each image, whatever the augmentation, so that a teacher
        can be remembered (teacher.cache): an image shows each once in so many epochs. 0: fresh ones
        for ever.
      views_seed: Which views these are, whatever the seed of the run: runs share what a teacher
        says of them.
      augment: crop_flip and resized_crop in the step; random_resized on the host, which cuts stored
        images of any size. The latter two scale a random part.
      feed: resident: on the device; streamed: decoded as used; auto: by size, 4 GB.
      workers: Processes that decode streamed images; 0 for threads of one process.
      decoder: random_resized only: what decodes JPEGs. cv2: all of an image; nvimgcodec: its crop
        alone, to the same pixels (`pip install 'rrd_jax[nvimgcodec]'`); auto: nvimgcodec where it
        is installed.
      keep: Which streamed training images stay decoded in the host's memory. auto: all of a set
        that fits; on: as many as fit; off: none.
      keep_share: Part of the host's free memory that data.keep takes at most, in each process.
      mock_examples: Above 0: that many random images stand in for each split; for a set by import
        path or hf, its own first ones.
      options: Of a set by import path: the arguments of its function beside the split. Of hf:PATH:
        the columns, if there are several, data.options.image and data.options.label.
      class_names: A file of class names, in place of the data's own: text with a name on each line;
        or JSON, a list or {"0": name}; '' for the data's own.
      share: Below 1: the part of data.train_split that is used, in the proportions of the classes,
        with an image of each at least.
      per_class: Above 0: the number of random training images of each class; all where it has
        fewer.
      imbalance: Above 1: how many times as many images the first class has as the last one. Images
        are left out until the classes, in the order of labels, are a long tail (arXiv 1901.05555).
      label_noise: The share of training labels that are made wrong, exactly so many in each class.
      noise: How labels are made wrong. symmetric: any other class, each as likely; asymmetric: the
        next class, also called pair flip.
      noise_seed: Chooses the images that data.share, data.per_class and data.imbalance leave, and
        the labels that are made wrong; independent of seed.
      use_labels: False: labels are not read, whatever the data have: the student learns from the
        teacher alone. Objectives that need labels are left out or refused, and image_folder takes
        images wherever they lie in it.
      max_images: image_folder without labels only: how many of its images are used, for a try;
        None: all.

    Raises:
      InputError: a value out of range, or two that exclude each other.
    """

    name: str = field("data.name", "", kinds.Text())
    dir: str = field("data.dir", "", kinds.Text(), changeable=True)
    manual_dir: str = field("data.manual_dir", "", kinds.Text(), changeable=True)
    train_split: str = field("data.train_split", "train", kinds.Text())
    test_split: str = field("data.test_split", "test", kinds.Text())
    image_size: int = field("data.image_size", 32, kinds.PIXELS)
    resize: int = field("data.resize", 256, kinds.PIXELS, unused=_IF_CUT_ON_HOST)
    crop_area: float = field(
        "data.crop_area",
        0.08,
        kinds.FACTOR,
        unused=unless("data.augment", "random_resized", "resized_crop"),
    )
    views: int = field("data.views.count", 0, kinds.Integer(0, 10**6))
    views_seed: int = field("data.views.seed", 0, kinds.SEED, unused=unless("data.views.count"))
    augment: str = field(
        "data.augment", "crop_flip", kinds.Choice((*DEVICE_AUGMENTATIONS, *HOST_AUGMENTATIONS))
    )
    feed: str = field("data.feed", "auto", kinds.Choice(FEEDS), changeable=True)
    workers: int = field(
        "data.workers", 0, kinds.Integer(0, 1024), changeable=True, unused=_IF_STREAMED
    )
    decoder: str = field(
        "data.decoder", "auto", kinds.Choice(DECODERS), changeable=True, unused=_IF_CUT_ON_HOST
    )
    keep: str = field(
        "data.keep", "auto", kinds.Choice(KEEPS), changeable=True, unused=_IF_STREAMED
    )
    keep_share: float = field(
        "data.keep_share",
        0.5,
        kinds.FACTOR,
        changeable=True,
        unused=(_IF_STREAMED, unless("data.keep", "auto", "on")),
    )
    mock_examples: int = field("data.mock_examples", 0, kinds.Integer(0, 10**8))
    options: Mapping[str, Any] | tuple[tuple[str, Any], ...] = field(
        "data.options", {}, kinds.Mapped(), unused=_without_import_path
    )
    class_names: str = field("data.class_names", "", kinds.Text(), unused=unless("data.use_labels"))
    share: float = field("data.share", 1.0, kinds.FACTOR, unused=_IF_REAL)
    per_class: int = field("data.per_class", 0, kinds.Integer(0), unused=_IF_REAL)
    imbalance: float = field("data.imbalance", 1.0, kinds.RATIO, unused=_IF_REAL)
    label_noise: float = field("data.label_noise", 0.0, kinds.PART)
    noise: str = field("data.noise", "symmetric", kinds.Choice(NOISES), unused=_without_noise)
    noise_seed: int = field("data.noise_seed", 0, kinds.SEED, unused=_without_choice)
    use_labels: bool = field("data.use_labels", True, kinds.Flag())
    max_images: int | None = field(
        "data.max_images",
        None,
        kinds.Optional(kinds.COUNT),
        unused=(unless("data.use_labels", False), unless("data.name", "image_folder")),
    )

    def __post_init__(self):
        pairs = sorted((key, _hashable(value)) for key, value in dict(self.options).items())
        object.__setattr__(self, "options", tuple(pairs))
        settings.check(self)
        if self.crops_on_host and self.resize < self.image_size:
            raise errors.InputError(
                f"data.resize is {self.resize}, less than data.image_size {self.image_size}, which"
                " is cut out of it"
            )
        if self.feed == "resident" and self.crops_on_host:
            raise errors.InputError(
                f"data.feed is resident, but data.augment '{self.augment}' cuts images of any size:"
                " stream them, or choose crop_flip"
            )
        if self.per_class and (self.share < 1 or self.imbalance > 1):
            raise errors.InputError(
                f"data.per_class is {self.per_class}, data.share {self.share:g} and data.imbalance"
                f" {self.imbalance:g}: each says how many images of a class are used; with"
                " data.per_class set the others to 1, or set it to 0"
            )

    @property
    def kind(self) -> str:
        """Who keeps the data: "tfds", "folder", "hf" or "import path"."""
        if self.name == "image_folder":
            return "folder"
        prefix, colon, rest = self.name.partition(":")
        if not colon or re.match(r"[\d*]", rest):  # TFDS writes NAME:VERSION
            return "tfds"
        return "hf" if prefix == "hf" else "import path"

    @property
    def is_degraded(self) -> bool:
        """Whether training data are made worse on purpose."""
        return self.is_thinned or self.label_noise > 0

    @property
    def is_thinned(self) -> bool:
        """Whether training images are left out on purpose."""
        return self.share < 1 or self.per_class > 0 or self.imbalance > 1

    @property
    def crops_on_host(self) -> bool:
        """Whether images are cut as they are decoded."""
        return self.augment in HOST_AUGMENTATIONS


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value
