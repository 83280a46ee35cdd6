"""CompRess: compressed representations, with the teacher's memory only (arXiv 2010.14713)."""

from rrd_jax.objectives.base import Objective, Record
from rrd_jax.objectives.parts import memory as memories
from rrd_jax.objectives.parts import projections
from rrd_jax.objectives.rrd import MEMORIES, Comparison, with_queue


def compress(
    *,
    temperature: float = 0.04,
    queue_size: int | str = "auto",
    head: str = "linear",
    head_width: int | None = None,
    chunk: int | None = None,
    precision: str = "auto",
) -> Objective:
    """Builds CompRess: relations to a queue of teacher embeddings, at one temperature.

    The loss is RRD's, `relational_loss`, on the teacher's embeddings without a projection. It is
    the published divergence plus the teacher's entropy, which has no gradient. Defaults are those
    of the published code with one memory.

    Args:
      temperature: temperature tau of student and teacher, > 0.
      queue_size: number of memory rows K >= 1. "auto": 128,000, but in a run at most the rows that
        one epoch pushes.
      head: head of the student, "linear"; "mlp" for two layers with a ReLU in between; or
        "orthogonal" for a matrix with orthonormal rows or columns (VkD, arXiv 2403.06213).
      head_width: hidden width of the MLP; None for the student's embedding dimension.
      chunk: number of memory rows that are compared at once; 0 for all, None for the platform's
        default; see `relational_loss`.
      precision: precision of the gradient's product on a TPU; see `relational_loss`.

    Raises:
      InputError: the head is unknown, or a value is out of range.

    References:
      arXiv 2010.14713.
    """
    comparison = Comparison(temperature, temperature, False, chunk, precision)
    projections.check_head(head, head_width)
    heads = projections.Heads(student=head, width=head_width)
    return with_queue(comparison, heads, queue_size=memories.rows(queue_size, MEMORIES["compress"]))


RECORD = Record(
    compress,
    "relations of embeddings to a memory",
    "arXiv 2010.14713",
    verified=False,
    needs_classes=False,
    rows=lambda options: MEMORIES["compress"],
)
