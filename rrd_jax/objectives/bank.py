"""Contrast with a bank of every training image's embeddings, as in the paper of CRD."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rrd_jax import errors, memory
from rrd_jax.batch import Batch
from rrd_jax.objectives import linear, negatives
from rrd_jax.objectives.base import Objective, ObjectiveState
from rrd_jax.objectives.linear import matmul

# Rows are compared in this many groups side by side, so that a bank that is split over as many
# devices, or a divisor of it, is compared, and differentiated, by each device in its own rows.
_GROUPS = 256
_DIRECT = 2**25  # similarities, and scalars of gathered rows: beyond this they are made in parts


class Banks(NamedTuple):
    """Running embeddings of all training images, and what comparisons with them need.

    2 N D float32: 51 MB for CIFAR, 1.3 GB for ImageNet, whose odd N no two devices can share.

    Attributes:
      student: a bank of the student's embeddings.
      teacher: a bank of the teacher's.
      constants: [2] float32, what the scores of student and teacher are divided by; 0 until the
        first batch sets them.
      met: which labels are known; see `negatives`.
    """

    student: memory.Bank
    teacher: memory.Bank
    constants: jax.Array
    met: negatives.Met


def init(key: jax.Array, examples: int, dim: int) -> Banks:
    """Banks of N random rows."""
    keys = jax.random.split(key)
    student, teacher = (memory.init_bank(own, examples, dim) for own in keys)
    return Banks(student, teacher, jnp.zeros(2), negatives.init(examples))


def similarities(embeddings: jax.Array, rows: jax.Array, places: jax.Array) -> jax.Array:
    """embeddings_b . rows[places_bk], without an array of [B, K, D].

    Args:
      embeddings: [B, D].
      rows: [N, D], constant for gradients.
      places: [B, K] int32 in [0, N).

    Returns:
      [B, K]: taken from all [B, N] of them up to 2^25, else from some places' rows at a time.
    """
    rows = jax.lax.stop_gradient(rows)
    (batch, dim), size = embeddings.shape, len(rows)
    if batch * size <= _DIRECT:
        groups = math.gcd(size, _GROUPS)
        copies = jnp.broadcast_to(embeddings.T, (groups, dim, batch))
        found = matmul(rows.reshape(groups, -1, dim), copies).reshape(size, batch)
        return found[places, jnp.arange(batch)[:, None]]
    width = max(1, min(places.shape[1], _DIRECT // (batch * dim)))
    parts = -(-places.shape[1] // width)
    padded = jnp.pad(places, ((0, 0), (0, parts * width - places.shape[1])))

    @jax.checkpoint
    def part(places):
        return jnp.einsum("bd,bkd->bk", embeddings, rows[places], precision="highest")

    found = jax.lax.map(part, padded.reshape(batch, parts, width).swapaxes(0, 1))
    return found.swapaxes(0, 1).reshape(batch, -1)[:, : places.shape[1]]


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
      places: [B, 1 + K] int32 in [0, N): the own example, then others.
      temperature: T >= 0.0125, so that scores stay within float32.

    Returns:
      (the student's p [B, 1 + K], the teacher's, the constants Z [2] to keep).
    """
    check_temperature(temperature)
    against = ((student, banks.teacher), (teacher, banks.student))
    scores = [jnp.exp(similarities(x, other.rows, places) / temperature) for x, other in against]
    size = len(banks.teacher.rows)
    fresh = jax.lax.stop_gradient(jnp.stack([jnp.mean(x) * size for x in scores]))
    constants = jnp.where(banks.constants > 0, banks.constants, fresh)
    return scores[0] / constants[0], scores[1] / constants[1], constants


def nce_loss(p: jax.Array, *, examples: int) -> jax.Array:
    """Noise-contrastive estimation: which of the images is the own one, which are noise?

        loss = - log(p_0 / (p_0 + c + 1e-7)) - sum_k log(c / (p_k + c + 1e-7)),  c = K / N

    Args:
      p: [B, 1 + K] the own image's relation, then those of K others; see `compare`.
      examples: N, of which the others were drawn.

    Returns:
      [B] losses in nats.

    References:
      Tian et al., arXiv 1910.10699.
    """
    noise = (p.shape[1] - 1) / examples
    own, others = p[:, 0], p[:, 1:]
    found = jnp.log(own / (own + noise + 1e-7))
    return -found - jnp.sum(jnp.log(noise / (others + noise + 1e-7)), axis=1)


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
    """`compare` with the own example and `count` drawn ones, and the banks moved afterwards.

    Args:
      banks: before the step.
      key: a typed PRNG key that stays the same over the steps.
      student: [B, D] embeddings of length 1.
      teacher: [B, D].
      batch: `index` [B] in [0, N) and `label` [B].
      temperature: T >= 0.0125.
      count: K, other images an image.
      momentum: see `memory.update`.

    Returns:
      (the student's p [B, 1 + K], the teacher's, the banks after the step).
    """
    index, labels = batch.index, batch.label
    met = negatives.meet(banks.met, index, labels)
    others = negatives.draw(key, met, labels, count)
    places = jnp.concatenate([index[:, None].astype(jnp.int32), others], axis=1)
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


def crd_bank(
    *, temperature: float, negatives: int, dim: int, momentum: float, examples: int | None
) -> Objective:
    """CRD with two banks: the sum of `nce_loss` for the student and for the teacher.

    Negatives are drawn from other classes, anew at every step: see `negatives.draw`. Options as in
    `contrast.crd`.
    """
    check(examples, momentum)
    check_temperature(temperature)

    def init_state(key, student, teacher):
        params_key, banks_key, draw_key = jax.random.split(key, 3)
        return ObjectiveState(
            params=linear.init_both(params_key, student, teacher, dim),
            frozen=jax.random.key_data(draw_key),
            memory=init(banks_key, examples, dim),
        )

    def loss(state, student, teacher, batch):
        *relations, moved = step(
            state.memory,
            jax.random.wrap_key_data(state.frozen),
            *linear.project_both(state.params, student, teacher),
            batch,
            temperature=temperature,
            count=negatives,
            momentum=momentum,
        )
        return sum(nce_loss(p, examples=examples) for p in relations), moved

    return Objective(init_state, loss, needs_maps=False)


def check_temperature(temperature: float) -> None:
    """Raises an InputError for a temperature with which exp(1 / T) leaves float32."""
    errors.check_positive(temperature=temperature)
    if temperature < 0.0125:
        raise errors.InputError(
            f"the temperature of a bank is {temperature}, but must be 0.0125 or above"
        )


def check(examples: int | None, momentum: float) -> None:
    """Raises an InputError for options that no bank can have."""
    if examples is None:
        raise errors.InputError("a bank needs examples, the number of training images")
    errors.check_positive(examples=examples)
    if not 0 <= momentum < 1:
        raise errors.InputError(f"momentum is {momentum}, but must be in [0, 1)")
