"""SEED: self-supervised distillation (arXiv 2101.04731)."""

from rrd_jax.objectives.base import Objective, Record
from rrd_jax.objectives.parts import memory as memories
from rrd_jax.objectives.parts import projections
from rrd_jax.objectives.rrd import MEMORIES, Comparison, with_queue


def seed(
    *,
    temperature_student: float = 0.2,
    temperature_teacher: float = 1e-4,
    queue_size: int | str = "auto",
    head: str = "mlp",
    head_width: int | None = None,
    chunk: int | None = None,
    precision: str = "auto",
) -> Objective:
    """Builds SEED: relations to a queue of teacher embeddings and to the image itself.

    The loss is RRD's, `relational_loss`, on the teacher's embeddings without a projection, with an
    additional row: the image's own teacher embedding. At the default teacher temperature, nearly
    all of the teacher's probability is on the image itself. Defaults are those of the published
    code.

    Args:
      temperature_student: temperature tau_s of the student, > 0.
      temperature_teacher: temperature tau_t of the teacher, > 0.
      queue_size: number of memory rows K >= 1. "auto": 65,536, but in a run at most the rows that
        one epoch pushes.
      head: head of the student, "mlp" for two layers with a ReLU in between, "linear" or
        "orthogonal", see `rrd`.
      head_width: hidden width of the MLP; None for the student's embedding dimension.
      chunk: number of memory rows that are compared at once; 0 for all, None for the platform's
        default; see `relational_loss`.
      precision: precision of the gradient's product on a TPU; see `relational_loss`.

    Raises:
      InputError: the head is unknown, or a value is out of range.

    References:
      arXiv 2101.04731.
    """
    comparison = Comparison(temperature_student, temperature_teacher, True, chunk, precision)
    projections.check_head(head, head_width)
    heads = projections.Heads(student=head, width=head_width)
    return with_queue(comparison, heads, queue_size=memories.rows(queue_size, MEMORIES["seed"]))


RECORD = Record(
    seed,
    "relations of embeddings to a memory and to the image itself",
    "arXiv 2101.04731",
    verified=False,
    needs_classes=False,
    rows=lambda options: MEMORIES["seed"],
)
