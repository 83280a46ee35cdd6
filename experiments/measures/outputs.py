"""The outputs of a run's networks on its test images."""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkOutputs:
    """The outputs of a network on N images, computed in float32.

    Attributes:
      logits: [N, C] float32.
      embedding: [N, D] float32, before the classifier; [N, 0] if the network returns no embedding.
    """

    logits: np.ndarray
    embedding: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class RunOutputs:
    """The test images of a run, and the outputs of its student and teacher.

    Attributes:
      images: [N, H, W, channels] uint8, the inputs of the networks; thumbnails if the images would
        take more than 500 MB.
      labels: [N] int32.
      class_names: names in the order of labels; numbers if the classes have no names.
      student: the outputs of the student.
      teacher: the outputs of the teacher; None for a run without a teacher.
      same_classes: True if student and teacher have the same classes. Embeddings can always be
        compared.
      origin: digests by "student", "teacher" and "data", stored with each measure; empty for
        outputs that do not come from a run.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    student: NetworkOutputs
    teacher: NetworkOutputs | None = None
    same_classes: bool = True
    origin: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def networks(self) -> Iterator[tuple[str, NetworkOutputs]]:
        """Pairs of a role, "student" or "teacher", and the outputs of the network."""
        yield "student", self.student
        if self.teacher is not None:
            yield "teacher", self.teacher

    @property
    def classifiers(self) -> Iterator[tuple[str, NetworkOutputs]]:
        """The entries of `networks` whose classes are those of the labels."""
        return (pair for pair in self.networks if pair[0] == "student" or self.same_classes)
