"""Choices for the comparison with a teacher on held-out images."""

import dataclasses
from typing import Any

from rrd_jax import settings
from rrd_jax.settings import Rule, field, kinds, unless


def _without_teacher(values: settings.Values) -> str:
    return "" if values.with_models() else "there is no teacher"


def _without_metrics(values: settings.Values) -> str:
    fields = ("eval.proof", "eval.labelled", "eval.patches", "eval.dense")
    is_used = any(values[name] for name in fields) or not values["data.use_labels"]
    return "" if is_used else "eval.proof is False"


def _with_labelled_images(values: settings.Values) -> str:
    return "eval.labelled sets the images" if values["eval.labelled"] else ""


def _with_masks(values: settings.Values) -> str:
    return "eval.dense compares patches as well" if values["eval.dense"] else ""


def _field(name: str, default: Any, kind: kinds.Kind, *rules: Rule) -> Any:
    """Declares a field of the comparison, which has no effect on the training."""
    rules = (_without_teacher, *rules)
    return field(f"eval.{name}", default, kind, changeable=True, unused=rules)


@dataclasses.dataclass(frozen=True)
class AlignmentChoice:
    """The comparison of a student with its teacher on held-out images during training.

    Attributes:
      on: Compares the student's embeddings of held-out images with the teacher's. Always done
        without labels, where the comparison chooses the best checkpoint.
      images: Maximum number of held-out images for eval.proof and eval.patches.
      every: Epochs between measurements. The last epoch is always measured.
      knn: Classifies test images at the end by nearest neighbors and by a linear probe, on the
        embeddings of the student, of the teacher, and of a student with random weights.
      labelled: Other labeled images, on which eval.knn runs at each measurement, also for data
        without labels: a folder with a folder per class, or with train and test, or a name as in
        data.name.
      per_class: Number of training images per class from eval.labelled; 0 for all.
      patches: Compares the student's patches of held-out images with the teacher's: nearest patches
        in common, and linear CKA. Writes patches/epoch-N.png, the principal components of patches
        as colors, for the first, the middle and the last epoch. Always done with eval.dense.
      dense: Images with masks, on which a linear probe on frozen patches measures the mean IoU of
        the student, of the teacher, and of a student with random weights at each measurement: a
        folder with images and masks, or the name of a TFDS set with masks, such as drawings.
      dense_images: Maximum number of training images and of test images from eval.dense.
    """

    on: bool = _field("proof", False, kinds.Flag())
    images: int = _field("proof_images", 2000, kinds.Integer(3), _without_metrics)
    every: int = _field("every", 1, kinds.COUNT, _without_metrics)
    knn: bool = _field("knn", False, kinds.Flag(), _with_labelled_images)
    labelled: str = _field("labelled", "", kinds.Path(repository=True))
    per_class: int = _field("labelled_per_class", 0, kinds.Integer(0), unless("eval.labelled"))
    patches: bool = _field("patches", False, kinds.Flag(), _with_masks)
    dense: str = _field("dense", "", kinds.Path())
    dense_images: int = _field("dense_images", 1000, kinds.Integer(2), unless("eval.dense"))

    def __bool__(self) -> bool:
        """Returns True if any comparison is enabled."""
        return self.on or self.classifies

    @property
    def compares_patches(self) -> bool:
        """True if patches are compared."""
        return self.patches or bool(self.dense)

    @property
    def classifies(self) -> bool:
        """True if embeddings are evaluated with labels."""
        return self.knn or bool(self.labelled)
