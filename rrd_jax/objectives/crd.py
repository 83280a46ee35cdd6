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
    """Cross-entropy of finding the teacher's embedding of the image among those of others.

        loss = - log softmax([student . teacher, student . m_1, ..., student . m_K] / T)[0]

    Args:
      student: [B, D] embeddings of length 1.
      teacher: [B, D] embeddings of the same images; not constant, their projection is trained.
      rows: [K, D] embeddings of other images, constant for gradients.
      temperature: T > 0.

    Returns:
      [B] losses in nats, > 0.

    Raises:
      InputError: the temperature is not above 0, or the shapes do not fit.

    References:
      Tian et al., arXiv 1910.10699, with the queue of arXiv 1911.05722.
    """
    errors.check_positive(temperature=temperature)
    student, teacher = as_matching_float32(student, teacher, constant=False)
    if rows.ndim != 2 or rows.shape[1] != student.shape[1]:
        raise errors.InputError(f"rows {rows.shape} must be [K, D] with student {student.shape}")
    positive = jnp.sum(student * teacher, axis=-1, keepdims=True) / temperature
    negative = matmul(student, jax.lax.stop_gradient(rows).T) / temperature
    # Not concatenated: the rows may be spread over devices.
    top = jax.lax.stop_gradient(jnp.maximum(positive, jnp.max(negative, axis=-1, keepdims=True)))
    total = jnp.exp(positive - top) + jnp.sum(jnp.exp(negative - top), axis=-1, keepdims=True)
    return (jnp.log(total) + top - positive)[:, 0]


def nce_loss(p: jax.Array, *, examples: int) -> jax.Array:
    """Noise-contrastive estimation: which image is the same one, which are noise?

        loss = - log(p_0 / (p_0 + c + 1e-7)) - sum_k log(c / (p_k + c + 1e-7)),  c = K / N

    Args:
      p: [B, 1 + K] relation to the same image, then to K others; see `parts.banks.compare`.
      examples: N, from which the K were drawn.

    Returns:
      [B] losses in nats.

    References:
      Tian et al., arXiv 1910.10699.
    """
    noise = (p.shape[1] - 1) / examples
    same, drawn = p[:, 0], p[:, 1:]
    recognised = jnp.log(same / (same + noise + 1e-7))
    return -recognised - jnp.sum(jnp.log(noise / (drawn + noise + 1e-7)), axis=1)


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
    """Contrastive representation distillation (arXiv 1910.10699).

    Both projections are linear layers to length 1 that are trained.

    Args:
      memory: "fifo" for a queue of the teacher's embeddings and `infonce_loss`; "bank" for the
        paper's two banks of all examples: the sum of `nce_loss` for student and teacher, with
        negatives of other classes that are drawn anew at every step, see `parts.negatives.draw`.
      temperature: T > 0; with a bank 0.0125 or above.
      negatives: other images K >= 1 that each image is compared with.
      dim: embedding length D.
      push_before: fifo only: whether the batch enters the queue before it is compared with it, as
        in the reference; every image is then among its own negatives.
      initial: fifo only: how the queue starts, "unit", or "reference" for the authors' scale; see
        `memory.init_queue`.
      momentum: bank only: how much of a row stays, in [0, 1).
      examples: bank only: number of training images N; the trainer fills it in.

    Raises:
      InputError: an unknown memory or a value out of range.
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
