"""The comparison with a teacher on held-out images, as it is chosen."""

import dataclasses
from typing import Any

from rrd_jax import settings
from rrd_jax.settings import Rule, field, kinds, unless


def _without_teacher(values: settings.Values) -> str:
    return "" if values.with_models() else "there is no teacher"


def _between_figures(values: settings.Values) -> str:
    is_used = values["eval.proof"] or values["eval.labelled"]
    return "" if is_used else "eval.proof is False"


def _with_other_images(values: settings.Values) -> str:
    return "eval.labelled names other images" if values["eval.labelled"] else ""


def _field(name: str, default: Any, kind: kinds.Kind, *rules: Rule) -> Any:
    """Declares a field of the comparison, which changes no number of the training."""
    rules = (_without_teacher, *rules)
    return field(f"eval.{name}", default, kind, changeable=True, unused=rules)


@dataclasses.dataclass(frozen=True)
class AlignmentChoice:
    """The comparison of a student with its teacher on held-out images during training.

    Attributes:
      on: Whether the student's embeddings of held-out images are compared with the teacher's, which
        needs no label.
      images: The most held-out images for eval.proof.
      every: Epochs between two looks at them; the last epoch always has one.
      knn: Whether nearest images and a linear probe classify test images at the end, by embeddings
        of the student, of the teacher, and of a student with random weights.
      labelled: Other images with labels, by which eval.knn is done at each look, also for data
        without labels: a folder with a folder for each class, or with train and test, or a name as
        in data.name.
      per_class: How many of eval.labelled's training images there are of each class; 0 for all.
    """

    on: bool = _field("proof", False, kinds.Flag())
    images: int = _field("proof_images", 2000, kinds.Integer(3), unless("eval.proof"))
    every: int = _field("every", 1, kinds.COUNT, _between_figures)
    knn: bool = _field("knn", False, kinds.Flag(), _with_other_images)
    labelled: str = _field("labelled", "", kinds.Text())
    per_class: int = _field("labelled_per_class", 0, kinds.Integer(0), unless("eval.labelled"))

    def __bool__(self) -> bool:
        """Returns True if there is anything to compare."""
        return self.on or self.classifies

    @property
    def classifies(self) -> bool:
        """Whether embeddings are judged by labels."""
        return self.knn or bool(self.labelled)
