"""What measures look at: the test images of a run, and what its networks say of each."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rrd_jax.data import Dataset


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """What a network says of N images, computed in float32.

    Attributes:
      logits: [N, C] float32.
      embedding: [N, D] float32, before its classifier; [N, 0] of a network that reports none.
    """

    logits: np.ndarray
    embedding: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A run, seen from outside: its test split, and what student and teacher say of it.

    Attributes:
      images: [N, H, W, channels] uint8, as the networks see them; scaled down to the size of
        thumbnails where all of them would be more than 500 MB.
      labels: [N] int32.
      class_names: in the order of labels; their numbers where classes have no names.
      student: its answers.
      teacher: its answers; None of a run without a teacher.
      compares: whether the teacher's logits are of the student's classes; its embeddings can be
        compared in any case.
      origin: digests of what answered and was asked, by "student", "teacher" and "data"; kept
        beside what is measured. Empty for answers that come from elsewhere.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    student: Answers
    teacher: Answers | None = None
    compares: bool = True
    origin: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    @property
    def networks(self) -> Iterator[tuple[str, Answers]]:
        """The role, "student" or "teacher", and the answers of each network that there is."""
        yield "student", self.student
        if self.teacher is not None:
            yield "teacher", self.teacher

    @property
    def classifiers(self) -> Iterator[tuple[str, Answers]]:
        """Those of `networks` that tell the classes of the labels apart."""
        return (pair for pair in self.networks if pair[0] == "student" or self.compares)


def of_run(
    folder: pathlib.Path,
    teacher: pathlib.Path | None = None,
    dataset: "Dataset | None" = None,
) -> Subject:
    """The Subject of a finished run, by its newest checkpoint.

    What a teacher answers is computed once in a process for all runs on the same images.

    Args:
      folder: a workdir; RUN@best, RUN@last and RUN@STEP are other checkpoints than the newest.
      teacher: weights to compare with, as config.teacher.checkpoint has them. None for the run's
        own: several are one, whose logits are the weighted mean of theirs, and whose cosine
        similarities of embeddings are that too.
      dataset: one that is open already, in place of the one that the run names.

    Raises:
      InputError: it is no run, a checkpoint is damaged, or the images are not there. The run's own
        teacher may be missing: that is a warning, and the Subject has none.
    """
    from experiments.measures import asking  # it imports JAX, which readers of files do without

    return asking.of_run(pathlib.Path(folder), teacher and pathlib.Path(teacher), dataset)
