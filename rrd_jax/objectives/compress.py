"""CompRess: compressed representations, with the teacher's memory alone (arXiv 2010.14713)."""

from rrd_jax.objectives.base import Objective, Record
from rrd_jax.objectives.parts import projections
from rrd_jax.objectives.rrd import Comparison, with_queue


def compress(
    *,
    temperature: float = 0.04,
    queue_size: int = 128_000,
    head: str = "linear",
    head_width: int | None = None,
    chunk: int | None = None,
    precision: str = "auto",
) -> Objective:
    """Relations to a queue of the latest teacher embeddings, at one temperature.

    The loss is RRD's, `relational_loss`, with the teacher's embeddings as they are: the published
    divergence plus the teacher's entropy, which has no gradient. Defaults are those of the
    published code with one memory.

    Args:
      temperature: tau > 0, of student and teacher.
      queue_size: memory rows K >= 1.
      head: of the student, "linear", or "mlp" for two layers with a ReLU between them.
      head_width: hidden features of the MLP; None for the length of the student's embedding.
      chunk: see `relational_loss`.
      precision: see `relational_loss`.

    Raises:
      InputError: an unknown head, or a value out of range.

    References:
      arXiv 2010.14713.
    """
    comparison = Comparison(temperature, temperature, False, chunk, precision)
    projections.check_head(head, head_width)
    heads = projections.Heads(student=head, width=head_width)
    return with_queue(comparison, heads, queue_size=queue_size)


RECORD = Record(
    compress,
    "relations of embeddings to a memory",
    "arXiv 2010.14713",
    verified=False,
    needs_classes=False,
)
