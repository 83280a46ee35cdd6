"""Two banks with a row for each training image, and the comparison with them, as in CRD."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.batch import Batch
from rrd_jax.objectives.parts import memory, negatives
from rrd_jax.objectives.parts.arithmetic import matmul

# Rows are compared in this number of groups. If a bank is sharded over as many devices, or a
# divisor, each device computes the similarities and gradients of its own rows.
_GROUPS = 256
# All B N similarities are computed, and K per image selected, if there are at most _DIRECT and N is
# at most _GATHER_COST times K: on a CPU, gathering a row costs as much as comparing with 25.
_DIRECT, _GATHER_COST = 2**25, 25
# Numbers in the rows that are gathered at once: 8 MB, which stay in a CPU's cache.
_AT_ONCE = 2**21


class Banks(NamedTuple):
    """Banks of both networks with their normalization constants and the state of the draws.

    The banks are 2 N D float32: 51 MB for CIFAR, 1.3 GB for ImageNet, whose N is odd, so that the
    rows cannot be sharded over two devices.

    Attributes:
      student: bank of the student's embeddings.
      teacher: bank of the teacher's embeddings.
      constants: [2] float32, normalization constants of the student's and the teacher's scores; 0
        until the first batch sets them.
      met: labels of the examples in past batches; see `negatives`.
    """

    student: memory.Bank
    teacher: memory.Bank
    constants: jax.Array
    met: negatives.DrawState


def init(key: jax.Array, examples: int, dim: int) -> Banks:
    """Creates banks of N random rows."""
    keys = jax.random.split(key)
    student, teacher = (memory.init_bank(bank_key, examples, dim) for bank_key in keys)
    return Banks(student, teacher, jnp.zeros(2), negatives.init(examples))


def similarities(embeddings: jax.Array, rows: jax.Array, indices: jax.Array) -> jax.Array:
    """Computes embeddings_b . rows[indices_bk], without an array of [B, K, D].

    All B N similarities are computed if there are at most 2^25 and N is at most 25 K; otherwise
    rows are gathered and compared in parts.

    Args:
      embeddings: [B, D].
      rows: [N, D], constant for gradients.
      indices: [B, K] int32 in [0, N).

    Returns:
      [B, K].
    """
    rows = jax.lax.stop_gradient(rows)
    (batch, dim), size = embeddings.shape, len(rows)
    if batch * size <= _DIRECT and size <= _GATHER_COST * indices.shape[1]:
        groups = math.gcd(size, _GROUPS)
        copies = jnp.broadcast_to(embeddings.T, (groups, dim, batch))
        products = matmul(rows.reshape(groups, -1, dim), copies).reshape(size, batch)
        return products[indices, jnp.arange(batch)[:, None]]
    width = max(1, min(indices.shape[1], _AT_ONCE // (batch * dim)))
    parts = -(-indices.shape[1] // width)
    padded = jnp.pad(indices, ((0, 0), (0, parts * width - indices.shape[1])))

    @jax.checkpoint
    def part(indices):
        return jnp.einsum("bd,bkd->bk", embeddings, rows[indices], precision="highest")

    products = jax.lax.map(part, padded.reshape(batch, parts, width).swapaxes(0, 1))
    return products.swapaxes(0, 1).reshape(batch, -1)[:, : indices.shape[1]]


def compare(
    banks: Banks,
    student: jax.Array,
    teacher: jax.Array,
    indices: jax.Array,
    *,
    temperature: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes each network's relations to the other network's bank.

        p_bk = exp(embedding_b . row[indices_bk] / T) / Z,  Z = N times the first batch's mean score

    Args:
      banks: banks of both networks, constant for gradients and not updated.
      student: [B, D] embeddings of length 1, compared with the teacher's bank.
      teacher: [B, D] embeddings of length 1, compared with the student's bank.
      indices: [B, 1 + K] int32 in [0, N): the image's example, then K other examples.
      temperature: T >= 0.0125, so that scores stay within float32.

    Returns:
      (p [B, 1 + K] of the student, p of the teacher, the constants Z [2] of the next state).
    """
    check_temperature(temperature)
    comparisons = ((student, banks.teacher), (teacher, banks.student))
    scores = [jnp.exp(similarities(x, bank.rows, indices) / temperature) for x, bank in comparisons]
    size = len(banks.teacher.rows)
    fresh = jax.lax.stop_gradient(jnp.stack([jnp.mean(x) * size for x in scores]))
    constants = jnp.where(banks.constants > 0, banks.constants, fresh)
    return scores[0] / constants[0], scores[1] / constants[1], constants


def step(
    banks: Banks,
    key: jax.Array,
    student: jax.Array,
    teacher: jax.Array,
    batch: Batch,
    *,
    temperature: float,
    count: int,
    momentum: float,
) -> tuple[jax.Array, jax.Array, Banks]:
    """Calls `compare` with each image's example and `count` negatives, then updates the banks.

    Args:
      banks: banks before the step.
      key: a typed PRNG key, constant over the steps.
      student: [B, D] embeddings of length 1.
      teacher: [B, D] embeddings of length 1.
      batch: the batch, with index in [0, N); without labels, each image counts as a separate class.
      temperature: T >= 0.0125.
      count: number K of other images that each image is compared with.
      momentum: see `memory.update`.

    Returns:
      (p [B, 1 + K] of the student, p of the teacher, the banks after the step).
    """
    index = batch.index
    labels = index if batch.label is None else batch.label
    met = negatives.add_labels(banks.met, index, labels)
    drawn = negatives.draw(key, met, labels, count)
    indices = jnp.concatenate([index[:, None].astype(jnp.int32), drawn], axis=1)
    p_student, p_teacher, constants = compare(
        banks, student, teacher, indices, temperature=temperature
    )
    moved = Banks(
        memory.update(banks.student, index, student, momentum=momentum),
        memory.update(banks.teacher, index, teacher, momentum=momentum),
        constants,
        met,
    )
    return p_student, p_teacher, moved


def check_temperature(temperature: float) -> None:
    """Raises an InputError for a temperature at which exp(1 / T) overflows float32."""
    errors.check_positive(temperature=temperature)
    if temperature < 0.0125:
        raise errors.InputError(
            f"the temperature of a bank is {temperature}, but must be at least 0.0125"
        )


def check_options(examples: int | None, momentum: float) -> None:
    """Raises an InputError for invalid `examples` or `momentum` of a bank."""
    if examples is None:
        raise errors.InputError(
            "a bank needs examples, the number of training images; pass examples="
        )
    errors.check_counts(examples=examples)
    memory.check_momentum(momentum)
