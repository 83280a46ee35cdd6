"""Relational Representation Distillation (arXiv 2407.12073)."""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rrd_jax import errors, functional
from rrd_jax.objectives import rrd_bank, rrd_patches
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.parts import banks, direct, patches, projections, relations
from rrd_jax.objectives.parts import memory as memories

_OVER_OPTIONS = {"over": "images", "weight_within": 1.0, "weight_memory": 1.0, "initial": "unit"}
_RRD_OPTIONS = {"own_pair": False, "teacher_projection": True, **_OVER_OPTIONS}
_BASELINE_OPTIONS = {"push_before": False, "teacher_projection": False, **_OVER_OPTIONS}
# The two published variants of RRD. A third is in the authors' docstrings: temperature_student
# 0.02, temperature_teacher 0.1, push_before True. "seed" and "compress" are presets of version
# 0.2.0, now objectives of the same names.
PRESETS: dict[str, dict[str, Any]] = {
    # The abstract of v5, and the code of 2024 that produced the CIFAR-100 table.
    "sharp_student": {
        "temperature_student": 0.04,
        "temperature_teacher": 0.10,
        "push_before": False,
        **_RRD_OPTIONS,
    },
    # The authors' repository since February 2025.
    "sharp_teacher": {
        "temperature_student": 0.10,
        "temperature_teacher": 0.02,
        "push_before": True,
        **_RRD_OPTIONS,
    },
    "seed": {
        "temperature_student": 0.2,
        "temperature_teacher": 1e-4,
        "own_pair": True,
        **_BASELINE_OPTIONS,
    },
    "compress": {
        "temperature_student": 0.04,
        "temperature_teacher": 0.04,
        "own_pair": False,
        **_BASELINE_OPTIONS,
    },
    # The objective of lightly-train 0.18, whose losses are KL divergences: they are smaller by the
    # floor, and have the same gradients.
    "lightly": {
        "temperature_student": 0.07,
        "temperature_teacher": 0.07,
        "own_pair": False,
        "push_before": True,
        "teacher_projection": False,
        "over": "both",
        "weight_within": 1.0,
        "weight_memory": 0.0,
        "initial": "zeros",
    },
}
# Number of memory rows of these presets and objectives; 16,384 for all other presets.
MEMORIES = {"seed": 65_536, "compress": 128_000}
# Number of memory rows of the preset "lightly", by the number of images that it is below.
_LIGHTLY_ROWS = {
    50: 16,
    100: 32,
    250: 64,
    500: 128,
    1000: 256,
    2000: 512,
    4000: 1024,
    10_000: 2048,
    20_000: 4096,
}
# Number of rows of the memory of patches.
_PATCH_ROWS = 16_384

# The lowest temperature at which three passes of bfloat16 keep the gradient within 1e-5 of float64.
_THREE_PASSES = 0.04


def relational_loss(
    student: jax.Array,
    teacher: jax.Array,
    memory: jax.Array,
    *,
    temperature_student: float,
    temperature_teacher: float,
    extra_rows: jax.Array | None = None,
    chunk: int | None = None,
    precision: str = "auto",
    longest: float | None = None,
) -> jax.Array:
    """Computes the cross-entropy of the teacher's and the student's relations to a memory.

        p_t(k) = softmax_k(teacher . m_k / tau_t),  p_s(k) = softmax_k(student . m_k / tau_s)
        loss   = - sum_k p_t(k) log p_s(k)

    One pass over the memory computes value and gradient. Under a mesh with Auto axes, with
    `jax.set_mesh` around the call, each device processes its shard of the rows if the number of
    devices divides K.

    Args:
      student: [B, D] embeddings, of length 1 in the paper.
      teacher: [B, D] embeddings of the same images, constant for gradients.
      memory: [K, D] earlier teacher embeddings, constant for gradients.
      temperature_student: temperature tau_s of the student, > 0.
      temperature_teacher: temperature tau_t of the teacher, > 0.
      extra_rows: [B, D] one additional memory row per image, such as the image's teacher embedding,
        constant for gradients; None for no additional rows.
      chunk: number of memory rows that are compared at once, without an array of [B, K]; 0 for all
        rows, None for the platform's default. The result does not depend on it.
      precision: precision of the gradient's product on a TPU, if chunk is None and B K is at most
        2^22 on each device: "high" for three passes of bfloat16, "highest" for full float32,
        "auto" for "high" if both temperatures are static and at least 0.04. All other products are
        full float32.
      longest: upper bound of |student| |row| and |teacher| |row|, including `extra_rows`, such as 1
        if all vectors have length 1; None if unknown. With a bound, and temperatures of at least
        longest / 66, a TPU omits the maximum in the softmax. Products above the bound may then
        overflow.

    Returns:
      [B] losses in nats; B may be 0. The minimum is the entropy of p_t, reached if p_s equals p_t.

    Raises:
      InputError: a temperature or longest is not above 0, chunk is not a whole number from 0,
        precision is unknown, or the shapes do not match.

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
    _check_comparison(temperature_student, temperature_teacher, chunk, precision)
    if isinstance(memory, memories.Queue | memories.Bank):
        raise errors.InputError(
            f"memory is a {type(memory).__name__}, but must be an array; pass its attribute rows"
        )
    optional = {} if extra_rows is None else {"extra_rows": extra_rows}
    errors.check_arrays(student=student, teacher=teacher, memory=memory, **optional)
    if longest is not None:
        errors.check_positive(longest=longest)
    shapes = {tuple(array.shape) for array in (student, teacher, *optional.values())}
    if memory.ndim != 2 or shapes != {(len(student), memory.shape[1])}:
        listed = f", extra_rows {extra_rows.shape}" if optional else ""
        raise errors.InputError(
            f"student {student.shape}, teacher {teacher.shape}{listed} must be [B, D], and memory"
            f" {memory.shape} must be [K, D]"
        )
    if not memory.size:
        raise errors.InputError(f"memory {memory.shape} is empty, but must have at least one row")
    if not len(student):
        return jnp.sum(student.astype(jnp.promote_types(student.dtype, jnp.float32)), axis=-1)
    teacher, memory, own_rows = jax.lax.stop_gradient((teacher, memory, extra_rows))
    temperatures = (temperature_student, temperature_teacher)
    is_static = not any(errors.is_traced(value) for value in (*temperatures, longest))
    if precision == "auto":
        precision = "high" if is_static and min(temperatures) >= _THREE_PASSES else "highest"
    reach = None
    if is_static and longest is not None and longest / min(temperatures) <= direct.REACH:
        reach = float(longest / temperature_student)
    # In half precision, the division would round the queries, or overflow.
    return relations.cross_entropy(
        functional.wide(student) / temperature_student,
        functional.wide(teacher) / temperature_teacher,
        memory,
        own_rows,
        None if chunk is None else int(chunk),
        relations.context_mesh(),
        precision,
        reach,
    )


class Comparison(NamedTuple):
    """Options of `relational_loss` in an objective.

    Attributes:
      temperature_student: temperature tau_s of the student, > 0.
      temperature_teacher: temperature tau_t of the teacher, > 0.
      own_pair: whether each image is also compared with its own teacher embedding.
      chunk: see `relational_loss`.
      precision: see `relational_loss`.
      longest: see `relational_loss`.
    """

    temperature_student: float
    temperature_teacher: float
    own_pair: bool
    chunk: int | None
    precision: str
    longest: float | None = None

    def loss(self, embedding: jax.Array, target: jax.Array, rows: jax.Array) -> jax.Array:
        """Computes losses [B] from student and teacher embeddings [B, D] and memory rows [K, D]."""
        return relational_loss(
            embedding,
            target,
            rows,
            temperature_student=self.temperature_student,
            temperature_teacher=self.temperature_teacher,
            extra_rows=target if self.own_pair else None,
            chunk=self.chunk,
            precision=self.precision,
            longest=self.longest,
        )

    def entropy(self, target: jax.Array, rows: jax.Array) -> jax.Array:
        """Computes the entropy [B] of the teacher's relations."""
        same = self._replace(temperature_student=self.temperature_teacher)
        return same.loss(target, target, rows)

    def compare_and_push(
        self, embedding: jax.Array, target: jax.Array, queue: memories.Queue, *, push_before: bool
    ) -> tuple[jax.Array, memories.Queue]:
        """Computes losses [B], and the queue that the targets [B, D] are pushed to."""
        if push_before:
            pushed = memories.push(queue, target)
            return self.loss(embedding, target, pushed.rows), pushed
        losses = self.loss(embedding, target, queue.rows)
        # The barrier orders the write after the read, so that XLA updates the queue in place.
        target, _ = jax.lax.optimization_barrier((target, jax.lax.stop_gradient(losses)))
        return losses, memories.push(queue, target)


def with_queue(
    comparison: Comparison,
    heads: projections.Heads,
    *,
    queue_size: int,
    push_before: bool = False,
    initial: str = "unit",
) -> Objective:
    """Builds an objective that compares embeddings with a queue of the latest teacher embeddings.

    Args:
      comparison: options of the loss; `longest` is set here.
      heads: layers after the embeddings.
      queue_size: number of memory rows K.
      push_before: whether the batch is pushed to the queue before the comparison.
      initial: see `memory.init_queue`.

    Raises:
      InputError: an option is out of range.
    """
    _check_comparison(*comparison[:2], comparison.chunk, comparison.precision)
    errors.check_counts(queue_size=queue_size)
    errors.lookup("initial", initial, memories.INITIAL)
    comparison = _bounded(comparison, initial)

    def init(key, student, teacher):
        params, layer, key = heads.init(key, student, teacher)
        queue = memories.init_queue(key, queue_size, heads.output_dim(teacher), initial=initial)
        return ObjectiveState(params, layer, queue)

    def loss(state, student, teacher, batch):
        del batch
        embedding = projections.project(state.params, student.embedding)
        target = projections.target(state.frozen, teacher)
        return comparison.compare_and_push(embedding, target, state.memory, push_before=push_before)

    def floor(state, teacher):
        target = projections.target(state.frozen, teacher)
        queue = memories.push(state.memory, target) if push_before else state.memory
        return comparison.entropy(target, queue.rows)

    def head(state):
        return state.params, True

    return Objective(init, loss, needs_maps=False, floor=floor, head=head, needs_index=False)


def _bounded(comparison: Comparison, initial: str) -> Comparison:
    """Returns the options of a comparison of vectors of length 1 with a queue."""
    # The initial rows of the reference's queue are not normalized to length 1.
    return comparison._replace(longest=None if initial == "reference" else 1.0)


def rrd(
    *,
    preset: str = "sharp_student",
    temperature_student: float | None = None,
    temperature_teacher: float | None = None,
    push_before: bool | None = None,
    memory: str = "fifo",
    queue_size: int | str = "auto",
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
    over: str | None = None,
    weight_within: float | None = None,
    weight_memory: float | None = None,
    diagonal: bool = True,
    patches_per_image: int = 8,
    patch_queue_size: int | str = "auto",
) -> Objective:
    """Builds RRD with a memory of teacher embeddings, and optionally over patches.

    The student's head is trained with the student, unless `train_projection` is False. The
    teacher's projection is random and fixed.

    Over patches, the loss is weight_within times `within_image_loss` plus weight_memory times
    `relational_loss` of a few patches of each image and a queue of teacher patches; with
    over="both", the loss over images is added. Patches have a separate head, to the dimension of
    the teacher's patches, which are not projected. The student's patches are resized to the
    teacher's grid, or the teacher's to the student's if that is finer. Temperatures, `push_before`,
    `own_pair`, `initial`, `chunk`, `precision`, `head` and `head_width` apply to patches too.

    Args:
      preset: name of a preset in PRESETS, which sets the temperatures, `push_before`, `own_pair`
        and `teacher_projection` if they are None. "sharp_student": temperatures 0.04 and 0.10, push
        after the comparison. "sharp_teacher": temperatures 0.10 and 0.02, push before the
        comparison. "lightly": the objective of lightly-train: temperatures 0.07, push before the
        comparison, queues that begin with zeros, no projection of the teacher, over="both" without
        a memory of patches. "seed" and "compress" are from version 0.2.0; use the objectives `seed`
        and `compress` instead.
      temperature_student: temperature tau_s of the student, > 0; None for the preset's.
      temperature_teacher: temperature tau_t of the teacher, > 0; None for the preset's.
      push_before: whether the batch is pushed to the memory before the comparison, so that each
        image is also compared with itself; None for the preset's choice.
      memory: type of memory. "fifo": a queue of the latest teacher embeddings. "momentum": a bank
        with a moving average for each training image, of which `queue_size` random rows are
        compared in a step, shared by the whole batch. "momentum_reference": the reference's
        variant, `parts.banks.compare` with banks of both networks, the image itself and
        `queue_size` images of other classes, then `rrd_bank.nested_loss`; banks are updated after
        the comparison.
      queue_size: number of memory rows K >= 1, independent of the batch size. "auto": the preset's
        number, which is 16,384 for RRD and up to 8,192 for "lightly", depending on the number of
        images; but in a run at most the rows that one epoch pushes to a fifo memory.
      dim: embedding dimension D.
      initial: initialization of the queue, for fifo only: "unit" for rows of length 1, or for the
        preset's choice if the preset is "lightly"; "reference" for the authors' scale; "zeros" for
        rows of 0; see `memory.init_queue`.
      chunk: number of rows that are compared at once, for fifo and momentum; 0 for all, None for
        the platform's default; see `relational_loss`.
      precision: precision of the gradient's product on a TPU, for fifo and momentum; see
        `relational_loss`.
      momentum: share of the old row in an update, in [0, 1), for banks.
      examples: number of training images N, for banks; set by the trainer.
      temperature_bank: temperature T of `parts.banks.compare`, >= 0.0125, for momentum_reference
        only.
      train_projection: whether the student's head is trained with the network.
      own_pair: whether each image is also compared with its own teacher embedding. Cannot be
        combined with push_before, nor with "momentum_reference", which always includes that pair.
      teacher_projection: whether the teacher's embeddings are projected to `dim`; otherwise the
        student's head projects to the teacher's embedding dimension.
      head: head of the student, "linear"; "mlp" for two layers with a ReLU in between; or
        "orthogonal" for a matrix with orthonormal rows or columns (VkD, arXiv 2403.06213).
      head_width: hidden width of the MLP; None for the student's embedding dimension.
      over: "images" for embeddings of images, "patches", or "both"; None for the preset's choice,
        which is "images" for all presets but "lightly".
      weight_within: factor of the loss between the patches of an image; 0 to omit the loss, None
        for the preset's, which is 1.
      weight_memory: factor of the loss with a memory of patches; 0 to omit loss and memory, None
        for the preset's, which is 1, and 0 for "lightly". With over="both" and both factors 0, the
        objective is that of over="images".
      diagonal: whether each patch is also related to itself in the loss between the patches of an
        image.
      patches_per_image: number P of patches of each image that are compared with the memory of
        patches and pushed to it, drawn without replacement in each step; all patches if an image
        has fewer.
      patch_queue_size: number of rows of the memory of patches. "auto": 16,384, but in a run at
        most the rows that one epoch pushes.

    Raises:
      InputError: the preset, memory or head is unknown, or a value is out of range.
    """
    overrides = {
        "temperature_student": temperature_student,
        "temperature_teacher": temperature_teacher,
        "push_before": push_before,
        "own_pair": own_pair,
        "teacher_projection": teacher_projection,
        "over": over,
        "weight_within": weight_within,
        "weight_memory": weight_memory,
        "initial": None if initial == "unit" else initial,
    }
    options = dict(errors.lookup("preset", preset, PRESETS))
    queue_size = memories.rows(queue_size, published_rows({"preset": preset}))
    options |= {name: value for name, value in overrides.items() if value is not None}
    own_pair, push_before = options["own_pair"], options["push_before"]
    initial = options["initial"]
    if own_pair and (push_before or memory == "momentum_reference"):
        other = "push_before" if push_before else f"memory={memory}"
        raise errors.InputError(
            f"own_pair and {other} are both set, which would compare each image with itself twice;"
            " remove either"
        )
    tau_s, tau_t = options["temperature_student"], options["temperature_teacher"]
    _check_comparison(tau_s, tau_t, chunk, precision)
    errors.check_counts(queue_size=queue_size, dim=dim)
    errors.lookup("memory", memory, dict.fromkeys(("fifo", "momentum", "momentum_reference")))
    errors.lookup("initial", initial, memories.INITIAL)
    memories.check_momentum(momentum)
    banks.check_temperature(temperature_bank)
    projections.check_head(head, head_width)
    patches.check(
        options["over"],
        weight_within=options["weight_within"],
        weight_memory=options["weight_memory"],
    )
    heads = projections.Heads(dim if options["teacher_projection"] else None, head, head_width)
    comparison = Comparison(tau_s, tau_t, own_pair, chunk, precision)
    if memory == "fifo":
        objective = with_queue(
            comparison, heads, queue_size=queue_size, push_before=push_before, initial=initial
        )
    elif memory == "momentum":
        # The initial rows of a bank have a length of at most sqrt(3).
        objective = rrd_bank.with_sample(
            comparison._replace(longest=math.sqrt(3)).loss,
            heads,
            count=queue_size,
            push_before=push_before,
            momentum=momentum,
            examples=examples,
        )
    else:
        objective = rrd_bank.with_banks(
            functools.partial(
                rrd_bank.nested_loss, temperature_student=tau_s, temperature_teacher=tau_t
            ),
            heads,
            temperature_bank=temperature_bank,
            count=queue_size,
            momentum=momentum,
            examples=examples,
        )
    patch_options = rrd_patches.PatchOptions(
        options["weight_within"],
        options["weight_memory"],
        diagonal,
        patches_per_image,
        memories.rows(patch_queue_size, _PATCH_ROWS),
        initial,
    )
    over_patches = _over_patches(patch_options, comparison, head, head_width, push_before)
    objective = patches.combined(options["over"], objective, over_patches)
    return objective if train_projection else projections.with_fixed_head(objective)


def _over_patches(
    options: rrd_patches.PatchOptions,
    comparison: Comparison,
    head: str,
    head_width: int | None,
    push_before: bool,
) -> Objective | None:
    """Returns the objective over patches; None if its weights are 0."""
    errors.check_counts(patches_per_image=options.count, patch_queue_size=options.queue_size)
    if not (options.weight_within or options.weight_memory):
        return None
    bounded = _bounded(comparison, options.initial)
    compare = functools.partial(bounded.compare_and_push, push_before=push_before)
    return rrd_patches.over_patches(options, compare, head, head_width, *comparison[:2])


def published_rows(options: Mapping[str, Any]) -> int:
    """Returns the number of memory rows of a preset, by the number of images for "lightly"."""
    if options.get("preset") == "lightly":
        images = options.get("examples") or math.inf
        return next((rows for below, rows in _LIGHTLY_ROWS.items() if images < below), 8192)
    return MEMORIES.get(options.get("preset"), 16_384)


def uses(options: Mapping[str, Any]) -> frozenset[str]:
    """Returns the parts that the options compare: of "images", "within" and "memory"."""
    chosen = dict(PRESETS.get(options.get("preset"), PRESETS["sharp_student"]))
    chosen |= {name: value for name, value in options.items() if value is not None}
    parts = {name for name in ("within", "memory") if chosen[f"weight_{name}"]}
    parts = set() if chosen["over"] == "images" else parts
    return frozenset(parts if chosen["over"] == "patches" else {*parts, "images"})


def patch_rows(options: Mapping[str, Any]) -> int:
    """Returns the number of rows of the memory of patches; 0 without this memory."""
    return _PATCH_ROWS if "memory" in uses(options) else 0


def _check_comparison(
    temperature_student: Any, temperature_teacher: Any, chunk: Any, precision: Any
) -> None:
    """Raises an InputError for options of `relational_loss` that are out of range."""
    errors.check_positive(
        temperature_student=temperature_student, temperature_teacher=temperature_teacher
    )
    if chunk is not None and (not errors.is_whole(chunk) or chunk < 0):
        raise errors.InputError(f"chunk is {chunk!r}, but must be None or a whole number from 0")
    errors.lookup("precision", precision, dict.fromkeys(("auto", "high", "highest")))


RECORD = Record(
    rrd,
    "relations of embeddings to a memory",
    "arXiv 2407.12073",
    filled_in=("examples",),
    needs_classes=False,
    rows=published_rows,
    patch_rows=patch_rows,
)
