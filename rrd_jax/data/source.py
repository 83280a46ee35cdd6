"""What images a job reads, and how: names and numbers, checked before any file is opened."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from rrd_jax import errors

FEEDS = ("auto", "resident", "streamed")
KEEPS = ("auto", "on", "off")
DECODERS = ("auto", "cv2", "nvimgcodec")
# Augmentations that the compiled step makes, and those that the host makes as it decodes an image.
DEVICE_AUGMENTATIONS = ("none", "crop_flip", "resized_crop")
HOST_AUGMENTATIONS = ("random_resized",)
NOISES = ("symmetric", "asymmetric")
_SHOWN = {"views": "views.count", "views_seed": "views.seed"}


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set and the form that its images are read in.

    Attributes:
      name: a key of DATASETS, or any TFDS set with a feature that is an image and one that is
        a class; an import path, such as my_data:source, of random-access sources; or hf:PATH, of
        a Hugging Face data set on disk.
      options: of a name with a path: what its function takes beside the split, or the columns of
        a Hugging Face set, `image` and `label`. A mapping becomes a tuple of pairs.
      dir: where TFDS keeps prepared sets; "" for its default.
      manual_dir: where the source files are, of image_folder and fashion_mnist, or whatever a
        message about a set that is not prepared is to name; "" for the default.
      train_split: a TFDS split expression, such as "train[:10000]".
      test_split: likewise.
      image_size: height and width that the networks see, > 0.
      resize: short side before the central crop at test time, for augmentations on the host.
      crop_area: the smallest part of an image that a random-resized crop is, in (0, 1].
      views: how many views of each image there are, drawn on the host; 0 for fresh ones for ever.
      views_seed: what they follow from, whatever the seed of a run.
      augment: a name in DEVICE_AUGMENTATIONS or HOST_AUGMENTATIONS; the latter need images that are
        streamed.
      feed: "resident" to decode a split into memory at its first use, "streamed" to decode images
        as they are used, "auto" to stream what does not fit into 4 GB.
      workers: processes that decode streamed images; 0 for threads.
      decoder: a name in DECODERS: "nvimgcodec" decodes no more of a JPEG than the part that a
        random-resized crop shows, to the pixels of "cv2"; "auto" for it where it is installed.
      keep: a name in KEEPS: whether streamed training images stay in memory once decoded; "auto"
        for those of a set that fits.
      keep_share: of the host's free memory, the most that they may take, in (0, 1].
      mock_examples: above 0, that many random examples a split stand in for the data; of a name
        with a path, the first ones of its own.
      class_names: a file of the classes' names, in place of the data's own; "" for none.
      share: of the training split's images that are used, in (0, 1]; all classes have theirs.
      per_class: above 0, training images of each class that are used, all where there are fewer.
      imbalance: of the long tail that is made of the training split, in the order of labels: images
        of the first class over those of the last one; 1 for the classes as they are.
      label_noise: share of the training labels that are made wrong, in [0, 1).
      noise: a name in NOISES: which wrong labels these are, as `stratified.noisy` has it.
      noise_seed: which images are used, and which labels are wrong, whatever the seed of a run.
      use_labels: whether labels are used; without, image_folder takes images wherever they lie.
      max_images: of image_folder without labels, how many of its images are used, held-out ones
        among them; None for all.

    Raises:
      InputError: a value out of range, or two that exclude each other.
    """

    name: str = ""
    dir: str = ""
    manual_dir: str = ""
    train_split: str = "train"
    test_split: str = "test"
    image_size: int = 32
    resize: int = 256
    crop_area: float = 0.08
    views: int = 0
    views_seed: int = 0
    augment: str = "crop_flip"
    feed: str = "auto"
    workers: int = 0
    decoder: str = "auto"
    keep: str = "auto"
    keep_share: float = 0.5
    mock_examples: int = 0
    options: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()
    class_names: str = ""
    share: float = 1.0
    per_class: int = 0
    imbalance: float = 1.0
    label_noise: float = 0.0
    noise: str = "symmetric"
    noise_seed: int = 0
    use_labels: bool = True
    max_images: int | None = None

    def __post_init__(self):
        pairs = sorted((key, _hashable(value)) for key, value in dict(self.options).items())
        object.__setattr__(self, "options", tuple(pairs))
        errors.check_positive(**{"data.image_size": self.image_size})
        errors.lookup("feed", self.feed, dict.fromkeys(FEEDS))
        errors.lookup("data.decoder", self.decoder, dict.fromkeys(DECODERS))
        errors.lookup("data.keep", self.keep, dict.fromkeys(KEEPS))
        check_augmentation(self.augment)
        errors.lookup("data.noise", self.noise, dict.fromkeys(NOISES))
        whole = ("workers", "mock_examples", "noise_seed", "per_class", "views", "views_seed")
        for field in whole:
            if getattr(self, field) < 0:
                shown = _SHOWN.get(field, field)
                raise errors.InputError(
                    f"data.{shown} is {getattr(self, field)}, but must be 0 or above"
                )
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

        ranges = {
            "crop_area": (0 < self.crop_area <= 1, "above 0 and at most 1"),
            "keep_share": (0 < self.keep_share <= 1, "above 0 and at most 1"),
            "share": (0 < self.share <= 1, "above 0 and at most 1"),
            "imbalance": (1 <= self.imbalance < math.inf, "a finite number of 1 or above"),
            "label_noise": (0 <= self.label_noise < 1, "0 or above, and below 1"),
        }
        for field, (is_within, wanted) in ranges.items():
            if not is_within:
                raise errors.InputError(
                    f"data.{field} is {getattr(self, field)}, but must be {wanted}"
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


def check_augmentation(name: str) -> None:
    """Raises an InputError for an unknown augmentation."""
    errors.lookup("augmentation", name, dict.fromkeys(DEVICE_AUGMENTATIONS + HOST_AUGMENTATIONS))
