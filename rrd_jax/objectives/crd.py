"""CRD: contrastive representation distillation (arXiv 1910.10699)."""

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.parts import banks, projections
from rrd_jax.objectives.parts import memory as memories
from rrd_jax.objectives.parts.arithmetic import matmul
from rrd_jax.objectives.parts.checks import as_matching_float32


def infonce_loss(
    student: jax.Array, teacher: jax.Array, rows: jax.Array, *, temperature: float
) -> jax.Array:
    """Computes the InfoNCE loss: cross-entropy of picking the teacher's embedding of the image.

        loss = - log softmax([student . teacher, student . m_1, ..., student . m_K] / T)[0]

    Args:
      student: [B, D] embeddings of length 1.
      teacher: [B, D] embeddings of the same images; not constant, since their projection is
        trained.
      rows: [K, D] embeddings of other images, constant for gradients.
      temperature: softmax temperature T, > 0.

    Returns:
      [B] losses in nats, > 0.

    Raises:
      InputError: the temperature is not above 0, or the shapes do not match.

    References:
      Tian et al., arXiv 1910.10699, with the queue of arXiv 1911.05722.
    """
    errors.check_positive(temperature=temperature)
    student, teacher = as_matching_float32(student, teacher, constant=False)
    if rows.ndim != 2 or rows.shape[1] != student.shape[1]:
        raise errors.InputError(f"rows {rows.shape} must be [K, D] with student {student.shape}")
    positive = jnp.sum(student * teacher, axis=-1, keepdims=True) / temperature
    negative = matmul(student, jax.lax.stop_gradient(rows).T) / temperature
    # Positive and negatives are not concatenated, because the rows may be sharded over devices.
    top = jax.lax.stop_gradient(jnp.maximum(positive, jnp.max(negative, axis=-1, keepdims=True)))
    total = jnp.exp(positive - top) + jnp.sum(jnp.exp(negative - top), axis=-1, keepdims=True)
    return (jnp.log(total) + top - positive)[:, 0]


def nce_loss(p: jax.Array, *, examples: int) -> jax.Array:
    """Computes the noise-contrastive estimation loss of one positive and K negatives.

        loss = - log(p_0 / (p_0 + c + 1e-7)) - sum_k log(c / (p_k + c + 1e-7)),  c = K / N

    Args:
      p: [B, 1 + K] relations to the same image, then to K other images; see `parts.banks.compare`.
      examples: number N of images from which the K are drawn.

    Returns:
      [B] losses in nats.

    References:
      Tian et al., arXiv 1910.10699.
    """
    noise = (p.shape[1] - 1) / examples
    positive, negatives = p[:, 0], p[:, 1:]
    log_positive = jnp.log(positive / (positive + noise + 1e-7))
    return -log_positive - jnp.sum(jnp.log(noise / (negatives + noise + 1e-7)), axis=1)


def crd(
    *,
    memory: str = "fifo",
    temperature: float = 0.07,
    negatives: int = 16384,
    dim: int = 128,
    push_before: bool = False,
    initial: str = "unit",
    momentum: float = 0.5,
    examples: int | None = None,
) -> Objective:
    """Builds contrastive representation distillation (arXiv 1910.10699).

    The projections of both networks are trained linear layers with normalized outputs.

    Args:
      memory: type of memory. "fifo": a queue of the teacher's embeddings, with `infonce_loss`.
        "bank": the paper's two banks of all examples, with the sum of `nce_loss` over student and
        teacher, and negatives of other classes that are drawn at each step, see
        `parts.negatives.draw`.
      temperature: softmax temperature T, > 0; at least 0.0125 with a bank.
      negatives: number K >= 1 of other images that each image is compared with.
      dim: embedding dimension D.
      push_before: whether the batch is pushed to the queue before the comparison, as in the
        reference, so that each image is among its own negatives; for fifo only.
      initial: initialization of the queue, for fifo only: "unit" for rows of length 1, "reference"
        for the authors' scale; see `memory.init_queue`.
      momentum: share of the old row in an update, in [0, 1), for bank only.
      examples: number of training images N, for bank only; set by the trainer.

    Raises:
      InputError: the memory is unknown, or a value is out of range.
    """
    errors.check_positive(temperature=temperature)
    errors.check_counts(negatives=negatives, dim=dim)
    errors.lookup("initial", initial, memories.INITIAL)
    memories.check_momentum(momentum)
    kinds = {
        "fifo": lambda: _with_queue(temperature, negatives, dim, push_before, initial),
        "bank": lambda: _with_banks(temperature, negatives, dim, momentum, examples),
    }
    return errors.lookup("memory", memory, kinds)()


def _with_queue(
    temperature: float, size: int, dim: int, push_before: bool, initial: str
) -> Objective:
    def init(key, student, teacher):
        params_key, queue_key = jax.random.split(key)
        return ObjectiveState(
            params=projections.init_both(params_key, student, teacher, dim),
            memory=memories.init_queue(queue_key, size, dim, initial=initial),
        )

    def loss(state, student, teacher, batch):
        del batch
        embedding, target = projections.project_both(state.params, student, teacher)
        pushed = memories.push(state.memory, target)
        rows = pushed.rows if push_before else state.memory.rows
        return infonce_loss(embedding, target, rows, temperature=temperature), pushed

    return Objective(init, loss, needs_maps=False, head=_head)


def _with_banks(
    temperature: float, count: int, dim: int, momentum: float, examples: int | None
) -> Objective:
    banks.check_options(examples, momentum)
    banks.check_temperature(temperature)

    def init(key, student, teacher):
        params_key, banks_key, draw_key = jax.random.split(key, 3)
        return ObjectiveState(
            params=projections.init_both(params_key, student, teacher, dim),
            frozen=jax.random.key_data(draw_key),
            memory=banks.init(banks_key, examples, dim),
        )

    def loss(state, student, teacher, batch):
        *relations, moved = banks.step(
            state.memory,
            jax.random.wrap_key_data(state.frozen),
            *projections.project_both(state.params, student, teacher),
            batch,
            temperature=temperature,
            count=count,
            momentum=momentum,
        )
        return sum(nce_loss(p, examples=examples) for p in relations), moved

    return Objective(init, loss, needs_maps=False, head=_head)


def _head(state: ObjectiveState) -> tuple[projections.Layer, bool]:
    return state.params["student"], True


RECORD = Record(
    crd,
    "embeddings, by contrast with a memory",
    "arXiv 1910.10699",
    weight=0.8,
    filled_in=("examples",),
    needs_classes=False,
)
