"""Relational Representation Distillation (arXiv 2407.12073)."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.parts import banks, direct, projections, relations
from rrd_jax.objectives.parts import memory as memories
from rrd_jax.objectives.parts.arithmetic import unit_rows
from rrd_jax.objectives.parts.projections import project

_RRD = {"own_pair": False, "teacher_projection": True}
# RRD's two published forms, and two of others that relate to a memory without labels; each value
# can also be set alone. A third form of RRD stands in the authors' docstrings: temperature_student
# 0.02, temperature_teacher 0.1, push_before True.
PRESETS = {
    # The abstract of v5, and the code of 2024 that printed the CIFAR-100 table.
    "sharp_student": {
        "temperature_student": 0.04,
        "temperature_teacher": 0.10,
        "push_before": False,
        **_RRD,
    },
    # The authors' repository since February 2025.
    "sharp_teacher": {
        "temperature_student": 0.10,
        "temperature_teacher": 0.02,
        "push_before": True,
        **_RRD,
    },
    # SEED, arXiv 2101.04731.
    "seed": {
        "temperature_student": 0.2,
        "temperature_teacher": 1e-4,
        "push_before": False,
        "own_pair": True,
        "teacher_projection": False,
    },
    # CompRess with the teacher's memory alone, arXiv 2010.14713.
    "compress": {
        "temperature_student": 0.04,
        "temperature_teacher": 0.04,
        "push_before": False,
        "own_pair": False,
        "teacher_projection": False,
    },
}


# Rows of their memories, where these are not the usual ones.
MEMORIES = {"seed": 65_536, "compress": 128_000}

# From which temperature three passes of bfloat16 keep the gradient within 1e-5 of float64's.
_THREE_PASSES = 0.04


def _check_chunk(chunk: Any) -> None:
    if chunk is not None and (not errors.is_whole(chunk) or chunk < 0):
        raise errors.InputError(f"chunk is {chunk!r}, but must be None or a whole number from 0")


def _check_precision(precision: Any) -> None:
    errors.lookup("precision", precision, dict.fromkeys(("auto", "high", "highest")))


def relational_loss(
    student: jax.Array,
    teacher: jax.Array,
    memory: jax.Array,
    *,
    temperature_student: float,
    temperature_teacher: float,
    own: jax.Array | None = None,
    chunk: int | None = None,
    precision: str = "auto",
    longest: float | None = None,
) -> jax.Array:
    """Cross-entropy between the teacher's and the student's relations to a memory.

        p_t(k) = softmax_k(teacher . m_k / tau_t),  p_s(k) = softmax_k(student . m_k / tau_s)
        loss   = - sum_k p_t(k) log p_s(k)

    Value and gradient come out of one walk over the memory. Under a mesh of Auto axes, with
    `jax.set_mesh` around the call, each device walks its own rows where the devices divide them.

    Args:
      student: [B, D] embeddings, of length 1 in the paper.
      teacher: [B, D] embeddings of the same images, constant for gradients.
      memory: [K, D] earlier teacher embeddings, constant for gradients.
      temperature_student: tau_s > 0.
      temperature_teacher: tau_t > 0.
      own: [B, D] one more row for each image alone, such as its own teacher embedding, constant for
        gradients; None for none.
      chunk: memory rows that are compared at once, so that nothing of size [B, K] exists; 0 for
        all of them, None for what suits the platform. The value is the same.
      precision: of the gradient's product on a TPU, where chunk is None and B K is 2^22 at most on
        each device: "high" for three passes of bfloat16, "highest" for full float32, "auto" for
        "high" where both temperatures are known to be 0.04 or above as it is traced. All else is
        full float32.
      longest: what no |student| |row| and no |teacher| |row| exceeds, `own` among the rows, such as
        1 where all have length 1; None where that is not known. With it, and temperatures of
        longest / 66 or above, a TPU needs no maximum in front of its exponentials. Products that
        are larger may give infinities there.

    Returns:
      [B] losses in nats; never below the entropy of p_t, and equal to it when the two
      relations agree.

    Raises:
      InputError: a temperature or longest is not above 0, chunk is no count, precision is unknown,
        or the arrays do not fit.

    References:
      arXiv 2407.12073.

    Examples:
      >>> import jax
      >>> from rrd_jax import memory, relational_loss
      >>> queue = memory.init_queue(jax.random.key(0), size=1024, dim=16)
      >>> student, teacher = jax.random.normal(jax.random.key(1), (2, 8, 16))
      >>> temperatures = {"temperature_student": 0.04, "temperature_teacher": 0.10}
      >>> relational_loss(student, teacher, queue.rows, **temperatures).shape
      (8,)
    """
    errors.check_positive(
        temperature_student=temperature_student, temperature_teacher=temperature_teacher
    )
    if isinstance(memory, memories.Queue | memories.Bank):
        raise errors.InputError(
            f"memory is a {type(memory).__name__}, but must be an array: pass its rows"
        )
    given = {} if own is None else {"own": own}
    errors.check_arrays(student=student, teacher=teacher, memory=memory, **given)
    _check_chunk(chunk)
    _check_precision(precision)
    if longest is not None:
        errors.check_positive(longest=longest)
    if (
        memory.ndim != 2
        or student.ndim != 2
        or not student.shape == teacher.shape == (len(student), memory.shape[1])
        or any(array.shape != student.shape for array in given.values())
    ):
        also = "" if own is None else f"; own is {own.shape}, and must be as student is"
        raise errors.InputError(
            f"student {student.shape}, teacher {teacher.shape} and memory {memory.shape} must be"
            f" [B, D], [B, D] and [K, D]{also}"
        )
    if not memory.size:
        raise errors.InputError(f"memory {memory.shape} is empty: there is nothing to relate to")
    teacher, memory, own = jax.lax.stop_gradient((teacher, memory, own))
    scaled = student / temperature_student, teacher / temperature_teacher
    chunk = None if chunk is None else int(chunk)
    temperatures = (temperature_student, temperature_teacher)
    known = not any(errors.is_traced(value) for value in (*temperatures, longest))
    if precision == "auto":
        precision = "high" if known and min(temperatures) >= _THREE_PASSES else "highest"
    reach = None
    if known and longest is not None and longest / min(temperatures) <= direct.REACH:
        reach = float(longest / temperature_student)
    mesh = relations.context_mesh()
    return relations.cross_entropy(*scaled, memory, own, chunk, mesh, precision, reach)


def nested_loss(
    p_student: jax.Array,
    p_teacher: jax.Array,
    *,
    temperature_student: float,
    temperature_teacher: float,
) -> jax.Array:
    """The reference's form with banks: softmaxes of what `parts.banks.compare` returns.

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
    precision: str = "auto",
    momentum: float = 0.5,
    examples: int | None = None,
    temperature_bank: float = 0.07,
    train_projection: bool = True,
    own_pair: bool | None = None,
    teacher_projection: bool | None = None,
    head: str = "linear",
    head_width: int | None = None,
) -> Objective:
    """RRD with a memory of teacher embeddings.

    The student's head is trained with the student, unless it is to stay at random; the teacher's
    projection is a fixed random one.

    Args:
      preset: a name in PRESETS; fills those of the three values below, and of `own_pair` and
        `teacher_projection`, that are None. "sharp_student" has temperatures 0.04 and 0.10 and
        compares before it pushes, "sharp_teacher" 0.10 and 0.02 and compares afterwards. "seed"
        has 0.2 and 1e-4, "compress" 0.04 twice, both the teacher's own embeddings; "seed" also
        compares each image with itself.
      temperature_student: tau_s > 0.
      temperature_teacher: tau_t > 0.
      push_before: whether the batch enters the memory before it is compared with it, so that
        every image also meets itself.
      memory: "fifo" for a queue of the latest embeddings. "momentum" for a running embedding of
        every training image, of which each step compares with `queue_size` random ones, the same
        for the whole batch. "momentum_reference" for the reference's form:
        `parts.banks.compare` with banks of both networks, the image itself and `queue_size` of
        other classes, then `nested_loss`; its banks are always moved after the comparison.
      queue_size: memory rows K >= 1; any batch size goes with any K. A config whose preset was
        asked for has that of MEMORIES, unless it says another one.
      dim: embedding length D.
      initial: fifo only: how the queue starts, "unit", or "reference" for the authors' scale; see
        `memory.init_queue`.
      chunk: fifo and momentum: rows compared at once, 0 for all, None for what suits the platform;
        see `relational_loss`.
      precision: fifo and momentum: of the products, see `relational_loss`.
      momentum: with banks: how much of a row stays, in [0, 1).
      examples: with banks: number of training images N; the trainer fills it in.
      temperature_bank: momentum_reference only: T of `parts.banks.compare`, >= 0.0125.
      train_projection: whether the student's head is trained; if not, only the network in front of
        it is.
      own_pair: whether each image also meets its own teacher embedding, beside the memory; not with
        push_before, nor with "momentum_reference", which always has it.
      teacher_projection: whether the teacher's embeddings are projected to `dim`; if not, they are
        compared as they are, and the student's get their length.
      head: of the student, "linear", or "mlp" for two layers with a ReLU between them.
      head_width: hidden features of the MLP; None for the student's own, as SEED has it.

    Raises:
      InputError: an unknown preset, memory or head, or a value out of range.
    """
    given = {
        "temperature_student": temperature_student,
        "temperature_teacher": temperature_teacher,
        "push_before": push_before,
        "own_pair": own_pair,
        "teacher_projection": teacher_projection,
    }
    options = dict(errors.lookup("preset", preset, PRESETS))
    options |= {name: value for name, value in given.items() if value is not None}
    push_before, own_pair = options.pop("push_before"), options.pop("own_pair")
    heads = _Heads(dim if options.pop("teacher_projection") else None, head, head_width)
    projections.check_head(head, head_width)
    if own_pair and (push_before or memory == "momentum_reference"):
        other = "push_before" if push_before else f"memory={memory}"
        raise errors.InputError(
            f"own_pair is set beside {other}: each image would meet itself twice; leave one out"
        )
    errors.check_positive(**options)
    errors.check_counts(queue_size=queue_size, dim=dim)
    banks.check_temperature(temperature_bank)
    _check_chunk(chunk)
    _check_precision(precision)
    kinds = dict.fromkeys(("fifo", "momentum", "momentum_reference"))
    errors.lookup("memory", memory, kinds)
    errors.lookup("initial", initial, memories.INITIAL)
    memories.check_momentum(momentum)
    if memory != "fifo":
        banks.check_options(examples, momentum)

    # Rows have length 1, but for those that a bank or the reference's queue begins with.
    longest = {"fifo": 1.0 if initial == "unit" else None, "momentum": math.sqrt(3)}.get(memory)
    products = {"chunk": chunk, "precision": precision, "longest": longest}

    def compare(embedding, target, rows):
        own = target if own_pair else None
        return relational_loss(embedding, target, rows, **options, own=own, **products)

    def entropy(target, rows):  # a cross-entropy with itself
        same = dict.fromkeys(options, options["temperature_teacher"])
        own = target if own_pair else None
        return relational_loss(target, target, rows, **same, own=own, **products)

    if memory == "fifo":
        objective = _with_queue(compare, queue_size, heads, push_before, initial)
        objective = objective._replace(floor=_floor(entropy, push_before))
    elif memory == "momentum":
        objective = _with_sample(compare, queue_size, heads, push_before, momentum, examples)
    else:
        step = functools.partial(
            banks.step, temperature=temperature_bank, count=queue_size, momentum=momentum
        )
        objective = _with_banks(functools.partial(nested_loss, **options), step, heads, examples)
    objective = objective._replace(head=lambda state: (state.params, True))
    return objective if train_projection else _with_fixed_projection(objective)


def _with_fixed_projection(objective: Objective) -> Objective:
    """The objective with the student's projection among what is not trained."""

    def init(key, student, teacher):
        state = objective.init(key, student, teacher)
        return state._replace(params=(), frozen=(state.params, state.frozen))

    def loss(state, student, teacher, batch):
        params, frozen = state.frozen
        return objective.loss(state._replace(params=params, frozen=frozen), student, teacher, batch)

    def floor(state, teacher):
        return objective.floor(state._replace(frozen=state.frozen[1]), teacher)

    def head(state):
        return objective.head(state._replace(params=state.frozen[0]))

    floor = objective.floor and floor
    return objective._replace(init=init, loss=loss, floor=floor, head=head)


class _Heads(NamedTuple):
    """What stands behind the embeddings of student and teacher.

    Attributes:
      dim: length D of what is compared; None for that of the teacher's embeddings, as they are.
      student: a name of `projections.HEADS`.
      width: hidden features of an MLP; None for the student's.
    """

    dim: int | None
    student: str
    width: int | None

    def length(self, teacher: Any) -> int:
        """D, for a teacher's Outputs."""
        return self.dim or teacher.embedding.shape[-1]

    def init(self, key: jax.Array, student: Any, teacher: Any) -> tuple[Any, Any, jax.Array]:
        """The student's head, the teacher's layer, () for none, and a key for the memory."""
        student_key, teacher_key, memory_key = jax.random.split(key, 3)
        dim, features = self.length(teacher), student.embedding.shape[-1]
        head = projections.init_head(student_key, features, dim, self.student, self.width)
        width = teacher.embedding.shape[-1]
        layer = projections.init(teacher_key, width, dim) if self.dim else ()
        return head, layer, memory_key


class Sampled(NamedTuple):
    """The memory of "momentum".

    Attributes:
      bank: running teacher embeddings of all training images.
      draws: [] int32, number of draws so far.
    """

    bank: memories.Bank
    draws: jax.Array


def _with_queue(
    compare: Callable, size: int, heads: _Heads, push_before: bool, initial: str
) -> Objective:
    def init(key, student, teacher):
        params, frozen, key = heads.init(key, student, teacher)
        queue = memories.init_queue(key, size, heads.length(teacher), initial=initial)
        return ObjectiveState(params, frozen, queue)

    def loss(state, student, teacher, batch):
        del batch
        embedding, target = _embeddings(state.params, state.frozen, student, teacher)
        if push_before:
            pushed = memories.push(state.memory, target)
            return compare(embedding, target, pushed.rows), pushed
        losses = compare(embedding, target, state.memory.rows)
        # Rows that are written once they have been read are written in place, without a copy.
        target, _ = jax.lax.optimization_barrier((target, jax.lax.stop_gradient(losses)))
        return losses, memories.push(state.memory, target)

    return Objective(init, loss, needs_maps=False)


def _floor(entropy: Callable, push_before: bool) -> Callable:
    """The entropy of the teacher's relations to a queue."""

    def floor(state, teacher):
        target = _target(state.frozen, teacher)
        memory = memories.push(state.memory, target) if push_before else state.memory
        return entropy(target, memory.rows)

    return floor


def _with_sample(
    compare: Callable,
    size: int,
    heads: _Heads,
    push_before: bool,
    momentum: float,
    examples: int,
) -> Objective:
    def init(key, student, teacher):
        params, frozen, key = _heads_and_draws(key, student, teacher, heads)
        bank = memories.init_bank(key, examples, heads.length(teacher))
        memory = Sampled(bank, jnp.int32(0))
        return ObjectiveState(params, frozen, memory)

    def loss(state, student, teacher, batch):
        bank, draws = state.memory
        embedding, target = _embeddings(state.params, state.frozen["projection"], student, teacher)
        moved = memories.update(bank, batch.index, target, momentum=momentum)
        rows = moved.rows if push_before else bank.rows
        if size < examples:
            key = jax.random.fold_in(jax.random.wrap_key_data(state.frozen["key"]), draws)
            rows = rows[jax.random.permutation(key, examples)[:size]]
        return compare(embedding, target, rows), Sampled(moved, draws + 1)

    return Objective(init, loss, needs_maps=False)


def _with_banks(compare: Callable, step: Callable, heads: _Heads, examples: int) -> Objective:
    def init(key, student, teacher):
        params, frozen, key = _heads_and_draws(key, student, teacher, heads)
        return ObjectiveState(params, frozen, banks.init(key, examples, heads.length(teacher)))

    def loss(state, student, teacher, batch):
        key = jax.random.wrap_key_data(state.frozen["key"])
        embeddings = _embeddings(state.params, state.frozen["projection"], student, teacher)
        *relations, moved = step(state.memory, key, *embeddings, batch)
        return compare(*relations), moved

    return Objective(init, loss, needs_maps=False)


def _heads_and_draws(
    key: jax.Array, student: Any, teacher: Any, heads: _Heads
) -> tuple[Any, Any, jax.Array]:
    """As `_Heads.init`, with a key for draws beside the teacher's layer."""
    params, layer, key = heads.init(key, student, teacher)
    key, draw_key = jax.random.split(key)
    return params, {"projection": layer, "key": jax.random.key_data(draw_key)}, key


def _embeddings(params: Any, layer: Any, student: Any, teacher: Any) -> tuple[jax.Array, jax.Array]:
    return project(params, student.embedding), _target(layer, teacher)


def _target(layer: Any, teacher: Any) -> jax.Array:
    embedding = teacher.embedding
    target = project(layer, embedding) if layer else unit_rows(embedding.astype(jnp.float32))
    return jax.lax.stop_gradient(target)


RECORD = Record(
    rrd,
    "relations of embeddings to a memory",
    "arXiv 2407.12073",
    filled_in=("examples",),
    needs_classes=False,
)
