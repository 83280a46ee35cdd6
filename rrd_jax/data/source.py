"""The config of a data set, validated before any file is opened."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from rrd_jax import errors, hub, settings
from rrd_jax.settings import field, kinds, unless

FEEDS = ("auto", "resident", "streamed")
KEEPS = ("auto", "on", "off")
DECODERS = ("auto", "cv2", "nvimgcodec")
# Augmentations in the compiled step, and augmentations on the host during decoding.
DEVICE_AUGMENTATIONS = ("none", "crop_flip", "resized_crop")
HOST_AUGMENTATIONS = ("random_resized",)
DEFAULT_BACKGROUND = "white"
# Kinds of data sets that are read in place from data.manual_dir.
_FOLDERS = {"image_folder": "folder", "mask_folder": "masks"}
NOISES = ("symmetric", "asymmetric")
# With a larger ratio of data.resize to data.image_size, less than half of a test image is used.
_LARGEST_RATIO = 1.5
# Fields that need labels, with the values that have no effect.
_NEED_LABELS = {"per_class": 0, "imbalance": 1, "label_noise": 0}
_IF_STREAMED = unless("data.feed", "auto", "streamed")
_IF_CUT_ON_HOST = unless("data.augment", *HOST_AUGMENTATIONS)
_IF_REAL = unless("data.mock_examples", 0)


def _without_import_path(values: settings.Values) -> str:
    name = values["data.name"]
    return "" if ":" in name else f"data.name is '{name}'"


def _field_values(name: str, values: settings.Values) -> list[Any]:
    """Returns the values of a field for the data and for every teacher with a network."""
    return [values[f"data.{name}"], *(v[f"teacher.{name}"] for v in values.with_models())]


def _without_noise(values: settings.Values) -> str:
    return "" if any(_field_values("label_noise", values)) else "there is no label noise"


def _without_choice(values: settings.Values) -> str:
    is_thinned = not values["data.mock_examples"] and (
        any((share or 1) < 1 for share in _field_values("share", values))
        or any(_field_values("per_class", values))
        or any((ratio or 1) > 1 for ratio in _field_values("imbalance", values))
    )
    is_validated = values["data.val_split"] and not values["data.mock_examples"]
    if is_thinned or is_validated or not _without_noise(values):
        return ""
    return "there is no label noise, and no images are left out"


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set and the preprocessing of its images.

    The mapping `options` becomes a tuple of pairs.

    Attributes:
      name: digits, drawings, fashion_mnist, cifar10, cifar100, stl10, tiny_imagenet, imagenet2012,
        image_folder, mask_folder (images with masks), any TFDS data set of labeled images, an
        import path of random-access sources such as my_data:source, hf:PATH for a Hugging Face data
        set on disk, hf-hub:ORG/NAME for one of the Hub with Parquet files, or wds:PATTERN for
        WebDataset shards.
      dir: Folder of prepared data sets, on this machine or in a bucket; '' for TFDS_DATA_DIR or
        ~/tensorflow_datasets.
      manual_dir: Folder of images for image_folder and mask_folder, read in place; the folder of
        relative patterns wds:PATTERN; or the files of fashion_mnist, '' for Debian's folder. The
        first two may be in a bucket.
      scratch: Folder for copies of data in buckets; '' for rrd_jax/data/ in XDG_CACHE_HOME or
        ~/.cache.
      train_split: TFDS split expression of the training images, such as train[:90%].
      test_split: TFDS split expression of the test images; validation for imagenet2012 and
        tiny_imagenet. In an image folder without a folder test, the split test is val.
      val_split: Share or number of the training images that are held out for validation, such as
        0.1 or 500, stratified by class and drawn with data.noise_seed before data.share and label
        noise. The best checkpoint is then chosen by the validation images, and test images are only
        reported. 0 for none: the best checkpoint is chosen by the test images.
      image_size: Height and width; smaller images are padded with black, larger images are scaled.
      resize: Shorter side that test images are scaled to before their center crop of
        data.image_size; for random_resized only. auto: data.image_size x 256/224, rounded down.
      background: Color behind transparent pixels, in training, testing, prediction and export:
        white, black or #rrggbb, such as #808080. none drops transparency, as version 0.2.0 did,
        which shows the colors that transparent pixels hide. auto: white.
      crop_area: Smallest area of a random crop relative to the image, such as 0.2 for MoCo-v2; for
        random_resized and resized_crop only.
      views: Number of fixed views per image for any augmentation, which makes a teacher's outputs
        cacheable (teacher.cache): each view is used once in this number of epochs. 0 for new views
        in every epoch.
      views_seed: Seed of the views, independent of the seed of the run, so that runs share a
        teacher cache.
      augment: crop_flip and resized_crop run in the compiled step; random_resized runs on the host
        and crops stored images of any size. The latter two scale a random crop.
      feed: resident keeps images in device memory; streamed decodes on demand; auto chooses by
        size, with a limit of 4 GB.
      workers: Number of processes that decode streamed images; 0 for threads of one process.
      decoder: Decoder of JPEGs, for random_resized only. cv2 decodes whole images; nvimgcodec
        decodes only the crop, to the same pixels (`pip install 'rrd_jax[nvimgcodec]'`); auto
        selects nvimgcodec if installed.
      keep: Cache of decoded streamed training images in host memory. auto: all images if they fit;
        on: as many as fit; off: none.
      keep_share: Largest share of the host's free memory for data.keep, per process.
      mock_examples: Number of images per split in a smoke test: random images, or for an import
        path or hf the first examples; 0 for all real data.
      options: Arguments of the function of an import path, in addition to the split; or the columns
        of hf:PATH, or the extensions of wds:PATTERN, if several fit, data.options.image and
        data.options.label; a configuration of hf-hub:ORG/NAME, data.options.subset; for wds also
        patterns of shards, data.options.test and data.options.validation.
      class_names: File of class names that replace those of the data set: text with one name per
        line, or JSON with a list or {"0": name}; '' for the names of the data set.
      share: Share of data.train_split that is used, stratified by class, with at least one image
        per class.
      per_class: Number of random training images per class, or all of a smaller class; 0 for no
        limit.
      imbalance: Ratio of the image counts of the first and the last class. Above 1, images are left
        out so that the classes, in the order of labels, form a long tail (arXiv 1901.05555).
      label_noise: Share of wrong training labels, exact in each class.
      noise: Type of label noise. symmetric: any other class, uniformly; asymmetric: the next class,
        also called pair flip.
      noise_seed: Seed of the images selected by data.val_split, data.share, data.per_class and
        data.imbalance, and of label noise; independent of seed.
      use_labels: False to ignore labels, so that the student learns only from the teacher.
        Objectives that need labels are omitted or rejected, and image_folder reads images at any
        depth.
      max_images: Largest number of images of image_folder without labels, for quick trials; None
        for all.

    Raises:
      InputError: a value is out of range, or two values exclude each other.
    """

    name: str = field("data.name", "", kinds.Text())
    dir: str = field("data.dir", "", kinds.Path(bucket=True), changeable=True)
    manual_dir: str = field("data.manual_dir", "", kinds.Path(bucket=True), changeable=True)
    scratch: str = field("data.scratch", "", kinds.Path(), changeable=True)
    train_split: str = field("data.train_split", "train", kinds.Text())
    test_split: str = field("data.test_split", "test", kinds.Text())
    val_split: float = field("data.val_split", 0.0, kinds.ShareOrCount(), unused=_IF_REAL)
    image_size: int = field("data.image_size", 32, kinds.PIXELS)
    resize: int = field(
        "data.resize",
        kinds.AUTO,
        kinds.Auto(kinds.PIXELS),
        unused=_IF_CUT_ON_HOST,
        legacy=256,
        choose=lambda values: scaled_side(values["data.image_size"]),
    )
    background: str = field(
        "data.background",
        kinds.AUTO,
        kinds.Auto(kinds.Color()),
        legacy=kinds.NO_COLOR,
        choose=lambda values: DEFAULT_BACKGROUND,
    )
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
    class_names: str = field("data.class_names", "", kinds.Path(), unused=unless("data.use_labels"))
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
        if kinds.is_auto(self.resize):
            object.__setattr__(self, "resize", scaled_side(self.image_size))
        if kinds.is_auto(self.background):
            object.__setattr__(self, "background", DEFAULT_BACKGROUND)
        object.__setattr__(self, "background", kinds.Color().value(self.background))
        if self.crops_on_host and self.resize < self.image_size:
            raise errors.InputError(
                f"data.resize is {self.resize}, less than data.image_size {self.image_size}, the"
                " size of the crop; set data.resize to at least data.image_size"
            )
        if self.feed == "resident" and self.crops_on_host:
            raise errors.InputError(
                f"data.feed is resident, but data.augment '{self.augment}' crops on the host; set"
                " data.feed=streamed, or data.augment=crop_flip"
            )
        if self.per_class and (self.share < 1 or self.imbalance > 1):
            raise errors.InputError(
                f"data.per_class is {self.per_class}, data.share {self.share:g} and data.imbalance"
                f" {self.imbalance:g}, but they exclude each other; set data.share and"
                " data.imbalance to 1, or data.per_class to 0"
            )
        for name, plain in _NEED_LABELS.items():
            value = getattr(self, name)
            if not self.use_labels and value != plain:
                raise errors.InputError(
                    f"data.use_labels is False, but data.{name} is {value:g}, which needs labels;"
                    f" set it to {plain:g}"
                )

    @property
    def kind(self) -> str:
        """Kind of storage: "tfds", "folder", "masks", "hf", "wds" or "import path"."""
        if self.name in _FOLDERS:
            return _FOLDERS[self.name]
        if self.name.startswith("wds:"):
            return "wds"
        prefix, colon, rest = self.name.partition(":")
        # TFDS names may be NAME:VERSION.
        if not colon or re.match(r"[\d*]", rest):
            return "tfds"
        return "hf" if prefix == "hf" or hub.is_name(self.name) else "import path"

    @property
    def is_degraded(self) -> bool:
        """True if training images are held out or left out, or labels are noisy, on purpose."""
        return self.val_split > 0 or self.is_thinned or self.label_noise > 0

    @property
    def is_thinned(self) -> bool:
        """True if training images are left out on purpose."""
        return self.share < 1 or self.per_class > 0 or self.imbalance > 1

    @property
    def crops_on_host(self) -> bool:
        """True if the host crops images during decoding."""
        return self.augment in HOST_AUGMENTATIONS


def scaled_side(image_size: int) -> int:
    """Returns the usual shorter side before a center crop: image_size x 256/224, rounded down."""
    return min(image_size * 256 // 224, kinds.PIXELS.maximum)


def describe_small_crop(image_size: int, resize: int | None) -> str:
    """Returns what a test image shows if the center crop omits most of it; "" for a usual crop."""
    if not resize or resize <= _LARGEST_RATIO * image_size:
        return ""
    return (
        f"a test image shows the central {image_size} x {image_size} of {resize} x {resize} pixels,"
        f" {100 * (image_size / resize) ** 2:.2g} % of a square image; the usual value is"
        f" {scaled_side(image_size)}"
    )


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value
