"""Made-up embeddings of a student, a teacher and a memory, for the figures of theory."""

from typing import NamedTuple

import numpy as np


class Embeddings(NamedTuple):
    """Of length 1, in float32, so that the code and the formula get the same numbers.

    Attributes:
      student: [B, D].
      teacher: [B, D], of the same images.
      memory: [K, D], of other images of the same classes.
    """

    student: np.ndarray
    teacher: np.ndarray
    memory: np.ndarray


def embeddings(
    *, images: int = 32, rows: int = 2048, dim: int = 64, classes: int = 10, seed: int = 0
) -> Embeddings:
    """Made-up embeddings of classes, the same at every call.

    Images of a class have a cosine of about 0.64 to one another in the teacher's eyes, and the
    student one of about 0.8 to the teacher.

    Args:
      images: B.
      rows: K.
      dim: D.
      classes: their number, equally frequent but for chance.
      seed: of the draws.
    """
    rng = np.random.default_rng(seed)

    def near(centres: np.ndarray) -> np.ndarray:
        noise = rng.standard_normal(centres.shape) / np.sqrt(dim)
        return _unit(centres + 0.75 * noise)

    centres = _unit(rng.standard_normal((classes, dim)))
    memory, teacher = (near(centres[rng.integers(classes, size=n)]) for n in (rows, images))
    arrays = near(teacher), teacher, memory
    return Embeddings(*(array.astype(np.float32) for array in arrays))


def with_own_keys(given: Embeddings) -> Embeddings:
    """The first rows of the memory are the images' own keys, as after push_before."""
    memory = given.memory.copy()
    memory[: len(given.teacher)] = given.teacher
    return given._replace(memory=memory)


def turned(given: Embeddings, degrees: float) -> Embeddings:
    """Students at an angle to the teacher, each in the plane of its two embeddings."""
    student, teacher = given.student.astype(float), given.teacher.astype(float)
    across = _unit(student - (student * teacher).sum(-1, keepdims=True) * teacher)
    angle = np.deg2rad(degrees)
    student = np.cos(angle) * teacher + np.sin(angle) * across
    return given._replace(student=student.astype(np.float32))


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
