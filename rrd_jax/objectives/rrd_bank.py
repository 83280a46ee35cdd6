"""RRD with banks, which have a row for each training image, instead of a queue."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, ObjectiveState
from rrd_jax.objectives.parts import banks, projections
from rrd_jax.objectives.parts import memory as memories


class Sampled(NamedTuple):
    """The memory of the type "momentum".

    Attributes:
      bank: moving averages of the teacher embeddings of all training images.
      draws: [] int32, number of draws so far.
    """

    bank: memories.Bank
    draws: jax.Array


def nested_loss(
    p_student: jax.Array,
    p_teacher: jax.Array,
    *,
    temperature_student: float,
    temperature_teacher: float,
) -> jax.Array:
    """Computes the reference's loss with banks, from the relations of `parts.banks.compare`.

        loss = - sum_k softmax_k(p_t / tau_t) log softmax_k(p_s / tau_s)

    Args:
      p_student: [B, 1 + K], relations p_s of the student.
      p_teacher: [B, 1 + K], relations p_t of the teacher, constant for gradients.
      temperature_student: temperature tau_s of the student, > 0.
      temperature_teacher: temperature tau_t of the teacher, > 0.

    Returns:
      [B] losses in nats.
    """
    errors.check_positive(
        temperature_student=temperature_student, temperature_teacher=temperature_teacher
    )
    shares = jax.nn.softmax(jax.lax.stop_gradient(p_teacher) / temperature_teacher, axis=-1)
    return -jnp.sum(shares * jax.nn.log_softmax(p_student / temperature_student, axis=-1), axis=-1)


def with_sample(
    compare: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    heads: projections.Heads,
    *,
    count: int,
    push_before: bool,
    momentum: float,
    examples: int,
) -> Objective:
    """Builds an objective that compares with random rows of one bank ("momentum").

    Args:
      compare: function (student embeddings [B, D], teacher embeddings [B, D], rows [K, D]) ->
        losses [B].
      heads: layers after the embeddings.
      count: number K of rows in a comparison; all N rows if K >= N.
      push_before: whether the bank is updated before the comparison.
      momentum: share of the old row in an update, in [0, 1).
      examples: number of training images N.

    Raises:
      InputError: `examples` or `momentum` is missing or out of range.
    """
    banks.check_options(examples, momentum)

    def init(key, student, teacher):
        params, frozen, key = _init_heads(key, student, teacher, heads)
        bank = memories.init_bank(key, examples, heads.output_dim(teacher))
        return ObjectiveState(params, frozen, Sampled(bank, jnp.int32(0)))

    def loss(state, student, teacher, batch):
        bank, draws = state.memory
        embedding = projections.project(state.params, student.embedding)
        target = projections.target(state.frozen["projection"], teacher)
        moved = memories.update(bank, batch.index, target, momentum=momentum)
        rows = moved.rows if push_before else bank.rows
        if count < examples:
            key = jax.random.fold_in(jax.random.wrap_key_data(state.frozen["key"]), draws)
            rows = rows[jax.random.permutation(key, examples)[:count]]
        return compare(embedding, target, rows), Sampled(moved, draws + 1)

    return Objective(init, loss, needs_maps=False, head=lambda state: (state.params, True))


def with_banks(
    compare: Callable[[jax.Array, jax.Array], jax.Array],
    heads: projections.Heads,
    *,
    temperature_bank: float,
    count: int,
    momentum: float,
    examples: int,
) -> Objective:
    """Builds an objective that compares with banks of both networks ("momentum_reference").

    Args:
      compare: function from the two relations [B, 1 + K] of `parts.banks.compare` to losses [B].
      heads: layers after the embeddings.
      temperature_bank: temperature T of `parts.banks.compare`, >= 0.0125.
      count: number K of images of other classes in a comparison.
      momentum: share of the old row in an update, in [0, 1).
      examples: number of training images N.

    Raises:
      InputError: `examples` or `momentum` is missing or out of range.
    """
    banks.check_options(examples, momentum)

    def init(key, student, teacher):
        params, frozen, key = _init_heads(key, student, teacher, heads)
        return ObjectiveState(params, frozen, banks.init(key, examples, heads.output_dim(teacher)))

    def loss(state, student, teacher, batch):
        p_student, p_teacher, moved = banks.step(
            state.memory,
            jax.random.wrap_key_data(state.frozen["key"]),
            projections.project(state.params, student.embedding),
            projections.target(state.frozen["projection"], teacher),
            batch,
            temperature=temperature_bank,
            count=count,
            momentum=momentum,
        )
        return compare(p_student, p_teacher), moved

    return Objective(init, loss, needs_maps=False, head=lambda state: (state.params, True))


def _init_heads(
    key: jax.Array, student: Any, teacher: Any, heads: projections.Heads
) -> tuple[Any, dict[str, Any], jax.Array]:
    """Returns the student's head, the teacher's layer with a key for draws, and an unused key."""
    params, layer, key = heads.init(key, student, teacher)
    key, draw_key = jax.random.split(key)
    return params, {"projection": layer, "key": jax.random.key_data(draw_key)}, key
