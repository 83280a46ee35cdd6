"""Two banks with a row for every training image, and the comparison with them, as in CRD."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.batch import Batch
from rrd_jax.objectives.parts import memory, negatives
from rrd_jax.objectives.parts.arithmetic import matmul

# Rows are compared in this many groups side by side, so that a bank that is split over as many
# devices, or a divisor of it, is compared, and differentiated, by each device in its own rows.
_GROUPS = 256
# All similarities are made, and K of them taken, up to so many, and where N is not above so many
# times K: to gather a row costs a CPU as much as to compare with 25.
_DIRECT, _ROWS_A_GATHER = 2**25, 25
_AT_ONCE = 2**21  # numbers of gathered rows, 8 MB, which stay in a CPU's cache


class Banks(NamedTuple):
    """Running embeddings of all training images, and what comparisons with them need.

    2 N D float32: 51 MB for CIFAR, 1.3 GB for ImageNet, whose odd N no two devices can share.

    Attributes:
      student: a bank of the student's embeddings.
      teacher: a bank of the teacher's.
      constants: [2] float32, what the scores of student and teacher are divided by; 0 until the
        first batch sets them.
      met: the labels that are known; see `negatives`.
    """

    student: memory.Bank
    teacher: memory.Bank
    constants: jax.Array
    met: negatives.Met


def init(key: jax.Array, examples: int, dim: int) -> Banks:
    """Banks of N random rows."""
    keys = jax.random.split(key)
    student, teacher = (memory.init_bank(bank_key, examples, dim) for bank_key in keys)
    return Banks(student, teacher, jnp.zeros(2), negatives.init(examples))


def similarities(embeddings: jax.Array, rows: jax.Array, places: jax.Array) -> jax.Array:
    """embeddings_b . rows[places_bk], without an array of [B, K, D].

    Args:
      embeddings: [B, D].
      rows: [N, D], constant for gradients.
      places: [B, K] int32 in [0, N).

    Returns:
      [B, K]: taken from all [B, N] of them up to 2^25 and up to N = 25 K, else from some places'
      rows at a time.
    """
    rows = jax.lax.stop_gradient(rows)
    (batch, dim), size = embeddings.shape, len(rows)
    if batch * size <= _DIRECT and size <= _ROWS_A_GATHER * places.shape[1]:
        groups = math.gcd(size, _GROUPS)
        copies = jnp.broadcast_to(embeddings.T, (groups, dim, batch))
        products = matmul(rows.reshape(groups, -1, dim), copies).reshape(size, batch)
        return products[places, jnp.arange(batch)[:, None]]
    width = max(1, min(places.shape[1], _AT_ONCE // (batch * dim)))
    parts = -(-places.shape[1] // width)
    padded = jnp.pad(places, ((0, 0), (0, parts * width - places.shape[1])))

    @jax.checkpoint
    def part(places):
        return jnp.einsum("bd,bkd->bk", embeddings, rows[places], precision="highest")

    products = jax.lax.map(part, padded.reshape(batch, parts, width).swapaxes(0, 1))
    return products.swapaxes(0, 1).reshape(batch, -1)[:, : places.shape[1]]


def compare(
    banks: Banks,
    student: jax.Array,
    teacher: jax.Array,
    places: jax.Array,
    *,
    temperature: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Each network's relations to the other network's bank.

        p_bk = exp(embedding_b . row[places_bk] / T) / Z,  Z = N times the first batch's mean score

    Args:
      banks: read only, constant for gradients.
      student: [B, D] embeddings of length 1, compared with the teacher's bank.
      teacher: [B, D] embeddings of length 1, compared with the student's bank.
      places: [B, 1 + K] int32 in [0, N): the image's example, then K others.
      temperature: T >= 0.0125, so that scores stay within float32.

    Returns:
      (the student's p [B, 1 + K], the teacher's, the constants Z [2] to keep).
    """
    check_temperature(temperature)
    comparisons = ((student, banks.teacher), (teacher, banks.student))
    scores = [jnp.exp(similarities(x, bank.rows, places) / temperature) for x, bank in comparisons]
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
    """`compare` with the image's example and `count` drawn ones; moves the banks afterwards.

    Args:
      banks: before the step.
      key: a typed PRNG key that stays the same over the steps.
      student: [B, D] embeddings of length 1.
      teacher: [B, D].
      batch: its index is in [0, N); without labels all other images are of other classes.
      temperature: T >= 0.0125.
      count: K, how many other images each image is compared with.
      momentum: see `memory.update`.

    Returns:
      (the student's p [B, 1 + K], the teacher's, the banks after the step).
    """
    index = batch.index
    labels = index if batch.label is None else batch.label  # each image is then a class of its own
    met = negatives.meet(banks.met, index, labels)
    drawn = negatives.draw(key, met, labels, count)
    places = jnp.concatenate([index[:, None].astype(jnp.int32), drawn], axis=1)
    p_student, p_teacher, constants = compare(
        banks, student, teacher, places, temperature=temperature
    )
    moved = Banks(
        memory.update(banks.student, index, student, momentum=momentum),
        memory.update(banks.teacher, index, teacher, momentum=momentum),
        constants,
        met,
    )
    return p_student, p_teacher, moved


def check_temperature(temperature: float) -> None:
    """Raises an InputError for a temperature with which exp(1 / T) leaves float32."""
    errors.check_positive(temperature=temperature)
    if temperature < 0.0125:
        raise errors.InputError(
            f"the temperature of a bank is {temperature}, but must be 0.0125 or above"
        )


def check_options(examples: int | None, momentum: float) -> None:
    """Raises an InputError for examples or momentum that no bank can have."""
    if examples is None:
        raise errors.InputError("a bank needs examples, the number of training images")
    errors.check_counts(examples=examples)
    memory.check_momentum(momentum)
