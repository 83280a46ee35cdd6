"""Relational Representation Distillation (arXiv 2407.12073)."""

import math

import jax
import jax.numpy as jnp

from rrd_jax import errors, memory
from rrd_jax.objectives import walk
from rrd_jax.objectives.base import Objective, ObjectiveState

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


def unit(x: jax.Array) -> jax.Array:
    """Rows scaled to length 1: x / max(|x|, 1e-12), with a finite gradient at zero."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(square, 1e-24))


def project(params: dict[str, jax.Array], features: jax.Array) -> jax.Array:
    """unit(features @ kernel + bias): features [B, F] to embeddings [B, D] of length 1."""
    features = features.astype(jnp.float32)
    return unit(_matmul(features, params["kernel"]) + params["bias"])


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
    if chunk:
        return walk.cross_entropy(
            student / temperature_student, teacher / temperature_teacher, memory, chunk
        )
    relations_student = _matmul(student, memory.T) / temperature_student
    relations_teacher = _matmul(teacher, memory.T) / temperature_teacher
    p_teacher = jax.nn.softmax(relations_teacher, axis=-1)
    return -jnp.sum(p_teacher * jax.nn.log_softmax(relations_student, axis=-1), axis=-1)


def rrd(
    *,
    preset: str = "sharp_student",
    temperature_student: float | None = None,
    temperature_teacher: float | None = None,
    push_before: bool | None = None,
    queue_size: int = 16384,
    dim: int = 128,
    initial: str = "unit",
    chunk: int | None = None,
) -> Objective:
    """RRD with a first-in-first-out memory of teacher embeddings.

    The student's projection is trained with the student; the teacher's is a fixed random one.

    Args:
      preset: a name in PRESETS; fills the three values below that are None.
      temperature_student: tau_s > 0.
      temperature_teacher: tau_t > 0.
      push_before: whether the batch enters the memory before it is compared with it, so that
        every image also meets its own key.
      queue_size: memory rows K >= 1; any batch size goes with any K.
      dim: embedding length D.
      initial: how the queue starts; see `memory.init_queue`.
      chunk: see `relational_loss`.

    Raises:
      InputError: an unknown preset or a value out of range.
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
    if chunk is not None and chunk < 0:
        raise errors.InputError(f"chunk is {chunk}, but must be 0 or above")

    def init(key, student, teacher):
        keys = jax.random.split(key, 3)
        return ObjectiveState(
            params=_init_projection(keys[0], student.embedding.shape[-1], dim),
            frozen=_init_projection(keys[1], teacher.embedding.shape[-1], dim),
            memory=memory.init_queue(keys[2], queue_size, dim, initial=initial),
        )

    def loss(state, student, teacher, batch):
        del batch
        student_embedding = project(state.params, student.embedding)
        teacher_embedding = jax.lax.stop_gradient(project(state.frozen, teacher.embedding))
        pushed = memory.push(state.memory, teacher_embedding)
        rows = pushed.rows if before else state.memory.rows
        losses = relational_loss(student_embedding, teacher_embedding, rows, **chosen, chunk=chunk)
        return losses, pushed

    return Objective(init, loss)


def _init_projection(key: jax.Array, features: int, dim: int) -> dict[str, jax.Array]:
    """Kernel and bias uniform in +-1/sqrt(features), as PyTorch's Linear starts."""
    kernel_key, bias_key = jax.random.split(key)
    bound = 1 / math.sqrt(features)
    return {
        "kernel": jax.random.uniform(kernel_key, (features, dim), minval=-bound, maxval=bound),
        "bias": jax.random.uniform(bias_key, (dim,), minval=-bound, maxval=bound),
    }


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    # Similarities are divided by temperatures down to 0.02: the accelerators' default of
    # about ten mantissa bits would be an error of several per cent in the softmax.
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
