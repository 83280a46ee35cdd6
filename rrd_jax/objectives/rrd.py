"""Relational Representation Distillation (arXiv 2407.12073)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax import memory as memories
from rrd_jax.objectives import bank, linear, walk
from rrd_jax.objectives.base import Objective, ObjectiveState
from rrd_jax.objectives.linear import project, unit

__all__ = ["PRESETS", "nested_loss", "project", "relational_loss", "rrd", "unit"]

_DIRECT = 2**25  # similarities: beyond this the memory is walked in chunks
_CHUNK = 2**14  # rows

# The two published forms; each value can also be set alone. A third one stands in the authors'
# docstrings: temperature_student 0.02, temperature_teacher 0.1, push_before True.
PRESETS = {
    # The abstract of v5, and the code of 2024 that printed the CIFAR-100 table.
    "sharp_student": {
        "temperature_student": 0.04,
        "temperature_teacher": 0.10,
        "push_before": False,
    },
    # The authors' repository since February 2025.
    "sharp_teacher": {
        "temperature_student": 0.10,
        "temperature_teacher": 0.02,
        "push_before": True,
    },
}


def relational_loss(
    student: jax.Array,
    teacher: jax.Array,
    memory: jax.Array,
    *,
    temperature_student: float,
    temperature_teacher: float,
    chunk: int | None = None,
) -> jax.Array:
    """Cross-entropy between the teacher's and the student's relations to a memory.

        p_t(k) = softmax_k(teacher . m_k / tau_t),  p_s(k) = softmax_k(student . m_k / tau_s)
        loss   = - sum_k p_t(k) log p_s(k)

    Args:
      student: [B, D] embeddings, of length 1 in the paper.
      teacher: [B, D] embeddings of the same images, constant for gradients.
      memory: [K, D] earlier teacher embeddings, constant for gradients.
      temperature_student: tau_s > 0.
      temperature_teacher: tau_t > 0.
      chunk: memory rows that are looked at at once, so that nothing of size [B, K] exists; 0 for
        all of them. None: 0 up to 2^25 similarities, 16 384 rows beyond. The value is the same.

    Returns:
      [B] losses in nats; never below the entropy of p_t, and equal to it when the two
      relations agree.

    Raises:
      InputError: a temperature is not above 0, or the shapes do not fit.

    References:
      arXiv 2407.12073.
    """
    errors.check_positive(
        temperature_student=temperature_student, temperature_teacher=temperature_teacher
    )
    if memory.ndim != 2 or not student.shape == teacher.shape == (len(student), memory.shape[1]):
        raise errors.InputError(
            f"student {student.shape}, teacher {teacher.shape} and memory {memory.shape} must be"
            " [B, D], [B, D] and [K, D]"
        )
    if chunk is None:
        chunk = 0 if len(student) * len(memory) <= _DIRECT else _CHUNK
    teacher, memory = jax.lax.stop_gradient((teacher, memory))
    scaled = student / temperature_student, teacher / temperature_teacher
    if chunk:
        return walk.cross_entropy(*scaled, memory, chunk)
    return walk.direct_cross_entropy(*scaled, memory)


def nested_loss(
    p_student: jax.Array,
    p_teacher: jax.Array,
    *,
    temperature_student: float,
    temperature_teacher: float,
) -> jax.Array:
    """The reference's form with banks: softmaxes of what `bank.compare` made of the similarities.

        loss = - sum_k softmax_k(p_t / tau_t) log softmax_k(p_s / tau_s)

    Args:
      p_student: [B, 1 + K].
      p_teacher: [B, 1 + K], constant for gradients.
      temperature_student: tau_s > 0.
      temperature_teacher: tau_t > 0.

    Returns:
      [B] losses in nats.
    """
    errors.check_positive(
        temperature_student=temperature_student, temperature_teacher=temperature_teacher
    )
    shares = jax.nn.softmax(jax.lax.stop_gradient(p_teacher) / temperature_teacher, axis=-1)
    return -jnp.sum(shares * jax.nn.log_softmax(p_student / temperature_student, axis=-1), axis=-1)


def rrd(
    *,
    preset: str = "sharp_student",
    temperature_student: float | None = None,
    temperature_teacher: float | None = None,
    push_before: bool | None = None,
    memory: str = "fifo",
    queue_size: int = 16384,
    dim: int = 128,
    initial: str = "unit",
    chunk: int | None = None,
    momentum: float = 0.5,
    examples: int | None = None,
    temperature_bank: float = 0.07,
) -> Objective:
    """RRD with a memory of teacher embeddings.

    The student's projection is trained with the student; the teacher's is a fixed random one.

    Args:
      preset: a name in PRESETS; fills the three values below that are None.
      temperature_student: tau_s > 0.
      temperature_teacher: tau_t > 0.
      push_before: whether the batch enters the memory before it is compared with it, so that
        every image also meets its own key.
      memory: "fifo" for a queue of the latest embeddings. "momentum" for a running embedding of
        every training image, of which each step compares with `queue_size` random ones, the same
        for the whole batch. "momentum_reference" for the reference's form: `bank.compare` with
        banks of both networks, the own image and `queue_size` of other classes, then
        `nested_loss`; its banks are always moved after the comparison.
      queue_size: memory rows K >= 1; any batch size goes with any K.
      dim: embedding length D.
      initial: fifo only: how the queue starts; see `memory.init_queue`.
      chunk: fifo and momentum: see `relational_loss`.
      momentum: with banks: how much of a row stays, in [0, 1).
      examples: with banks: number of training images N; the trainer fills it in.
      temperature_bank: momentum_reference only: T of `bank.compare`, >= 0.0125.

    Raises:
      InputError: an unknown preset or memory, or a value out of range.
    """
    given = {
        "temperature_student": temperature_student,
        "temperature_teacher": temperature_teacher,
        "push_before": push_before,
    }
    chosen = dict(errors.lookup("preset", preset, PRESETS))
    chosen |= {name: value for name, value in given.items() if value is not None}
    before = chosen.pop("push_before")
    errors.check_positive(**chosen, queue_size=queue_size, dim=dim)
    bank.check_temperature(temperature_bank)
    if chunk is not None and chunk < 0:
        raise errors.InputError(f"chunk is {chunk}, but must be 0 or above")
    kinds = {"fifo": _with_queue, "momentum": _with_sample, "momentum_reference": _with_banks}
    build = errors.lookup("memory", memory, kinds)
    if memory == "fifo":
        options = {"initial": initial}
    else:
        bank.check(examples, momentum)
        options = {"examples": examples, "momentum": momentum}
    if memory == "momentum_reference":
        return build(chosen, queue_size, dim, temperature=temperature_bank, **options)
    return build(chosen | {"chunk": chunk}, queue_size, dim, before=before, **options)


class Sampled(NamedTuple):
    """The memory of "momentum".

    Attributes:
      bank: running teacher embeddings of all training images.
      draws: [] int32, how often some of them were drawn.
    """

    bank: memories.Bank
    draws: jax.Array


def _with_queue(comparison, size, dim, *, before, initial) -> Objective:
    def init(key, student, teacher):
        *projections, key = _projections(key, student, teacher, dim)
        queue = memories.init_queue(key, size, dim, initial=initial)
        return ObjectiveState(*projections, queue)

    def loss(state, student, teacher, batch):
        del batch
        embedding, target = _embeddings(state.params, state.frozen, student, teacher)
        pushed = memories.push(state.memory, target)
        rows = pushed.rows if before else state.memory.rows
        return relational_loss(embedding, target, rows, **comparison), pushed

    return Objective(init, loss, needs_maps=False)


def _with_sample(comparison, size, dim, *, before, examples, momentum) -> Objective:
    def init(key, student, teacher):
        params, frozen, key = _projections_and_draws(key, student, teacher, dim)
        kept = Sampled(memories.init_bank(key, examples, dim), jnp.int32(0))
        return ObjectiveState(params, frozen, kept)

    def loss(state, student, teacher, batch):
        old, draws = state.memory
        embedding, target = _embeddings(state.params, state.frozen["projection"], student, teacher)
        moved = memories.update(old, batch.index, target, momentum=momentum)
        rows = moved.rows if before else old.rows
        if size < examples:
            key = jax.random.fold_in(jax.random.wrap_key_data(state.frozen["key"]), draws)
            rows = rows[jax.random.permutation(key, examples)[:size]]
        return relational_loss(embedding, target, rows, **comparison), Sampled(moved, draws + 1)

    return Objective(init, loss, needs_maps=False)


def _with_banks(temperatures, size, dim, *, examples, momentum, temperature) -> Objective:
    def init(key, student, teacher):
        params, frozen, key = _projections_and_draws(key, student, teacher, dim)
        return ObjectiveState(params, frozen, bank.init(key, examples, dim))

    def loss(state, student, teacher, batch):
        *relations, moved = bank.step(
            state.memory,
            jax.random.wrap_key_data(state.frozen["key"]),
            *_embeddings(state.params, state.frozen["projection"], student, teacher),
            batch,
            temperature=temperature,
            count=size,
            momentum=momentum,
        )
        return nested_loss(*relations, **temperatures), moved

    return Objective(init, loss, needs_maps=False)


def _projections(key, student, teacher, dim):
    """The student's layer, the teacher's, and a key for the memory."""
    keys = jax.random.split(key, 3)
    lengths = (outputs.embedding.shape[-1] for outputs in (student, teacher))
    layers = (linear.init(own, length, dim) for own, length in zip(keys[:2], lengths, strict=True))
    return *layers, keys[2]


def _projections_and_draws(key, student, teacher, dim):
    """The same, with a key for draws beside the teacher's layer."""
    params, frozen, key = _projections(key, student, teacher, dim)
    key, draw_key = jax.random.split(key)
    return params, {"projection": frozen, "key": jax.random.key_data(draw_key)}, key


def _embeddings(params, frozen, student, teacher):
    target = jax.lax.stop_gradient(project(frozen, teacher.embedding))
    return project(params, student.embedding), target
