"""SEED: self-supervised distillation (arXiv 2101.04731)."""

from rrd_jax.objectives.base import Objective, Record
from rrd_jax.objectives.parts import projections
from rrd_jax.objectives.rrd import Comparison, with_queue


def seed(
    *,
    temperature_student: float = 0.2,
    temperature_teacher: float = 1e-4,
    queue_size: int = 65_536,
    head: str = "mlp",
    head_width: int | None = None,
    chunk: int | None = None,
    precision: str = "auto",
) -> Objective:
    """Relations to the image's own teacher embedding and to a queue of the latest ones.

    The loss is RRD's, `relational_loss`, with the teacher's embeddings as they are, and each image
    compared with itself too. At so low a temperature nearly all of the teacher's probability is on
    the image itself. Defaults are those of the published code.

    Args:
      temperature_student: tau_s > 0.
      temperature_teacher: tau_t > 0.
      queue_size: memory rows K >= 1.
      head: of the student, "mlp" for two layers with a ReLU between them, or "linear".
      head_width: hidden features of the MLP; None for the length of the student's embedding.
      chunk: see `relational_loss`.
      precision: see `relational_loss`.

    Raises:
      InputError: an unknown head, or a value out of range.

    References:
      arXiv 2101.04731.
    """
    comparison = Comparison(temperature_student, temperature_teacher, True, chunk, precision)
    projections.check_head(head, head_width)
    heads = projections.Heads(student=head, width=head_width)
    return with_queue(comparison, heads, queue_size=queue_size)


RECORD = Record(
    seed,
    "relations of embeddings to a memory and to the image itself",
    "arXiv 2101.04731",
    verified=False,
    needs_classes=False,
)
