"""Wasserstein distance of logits and of feature statistics (arXiv 2412.08139)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.parts import adapters, transport
from rrd_jax.objectives.parts.checks import (
    as_matching_float32,
    check_labels,
    check_shares,
    check_weights,
)
from rrd_jax.objectives.parts.logits import mixed_loss
from rrd_jax.objectives.parts.pooling import pool

_OVER, _COSTS = ("logits", "features", "both"), ("cka", "head")
# Regularization and iterations of the transport, and the smallest variance of a feature.
_REGULARIZATION, _ITERATIONS, _EPSILON = 0.05, 10, 1e-5
# Published weights of the logits and ratios of means to deviations, alone and together.
_ALONE, _TOGETHER = (600.0, 4.0), (200.0, 8.0)


def wkd_logits_loss(
    student: jax.Array,
    teacher: jax.Array,
    labels: jax.Array,
    cost: jax.Array,
    *,
    temperature: float = 8.0,
    weight: float | jax.Array = 600.0,
) -> jax.Array:
    """Computes WKD-L: the transport of probability between classes, apart from the label.

        loss = - p_t(y) log p_s(y) + weight W(a, b),  p = softmax(z)

    with a and b the student's and the teacher's softmax(z / T) over all classes except the label y,
    and W the cost of the entropic transport from a to b with regularization 0.05, after ten
    iterations of Sinkhorn's algorithm; see `parts.transport.sinkhorn`. W(a, a) is small, but not 0.

    Args:
      student: [B, C] logits, C >= 2.
      teacher: [B, C] logits, constant for gradients.
      labels: [B] int32, class ids.
      cost: [C, C], cost of moving probability between two classes, >= 0, with diagonal 0.
      temperature: softmax temperature T, > 0.
      weight: weight of the transport, >= 0.

    Returns:
      [B] losses.

    Raises:
      InputError: a value or a label is out of range, or there are fewer than two classes.

    References:
      Lv et al., arXiv 2412.08139.
    """
    errors.check_positive(temperature=temperature)
    student, teacher = as_matching_float32(student, teacher)
    check_labels(labels, student)
    if student.shape[-1] < 2:
        raise errors.InputError(
            "wkd compares the classes other than the label, but there is one class; use at least"
            " two"
        )
    is_label = jax.nn.one_hot(labels, student.shape[-1], dtype=bool)
    log_p_s, p_t = jax.nn.log_softmax(student), jax.nn.softmax(teacher)
    target = -jnp.sum(jnp.where(is_label, p_t * log_p_s, 0), axis=-1)
    a, b = (
        jax.nn.softmax(jnp.where(is_label, -jnp.inf, x / temperature)) for x in (student, teacher)
    )
    moved = transport.sinkhorn(a, b, cost, regularization=_REGULARIZATION, iterations=_ITERATIONS)
    return target + weight * moved


def wkd_features_loss(
    student: jax.Array, teacher: jax.Array, *, grid: int = 1, mean_weight: float = 4.0
) -> jax.Array:
    """Computes WKD-F: the Wasserstein distance between Gaussians of each channel.

        loss = mean over cells of sum_c (mean_weight (m_s - m_t)^2 + (d_s - d_t)^2)

    with mean m and deviation d = sqrt(unbiased variance + 1e-5) of the positions in each cell of a
    grid.

    Args:
      student: [B, H, W, D] features.
      teacher: [B, H, W, D] features, constant for gradients.
      grid: rows and columns of cells, >= 1.
      mean_weight: weight of the means relative to the deviations, >= 0.

    Returns:
      [B] losses >= 0.

    Raises:
      InputError: a cell has fewer than two positions.

    References:
      Lv et al., arXiv 2412.08139.
    """
    errors.check_counts(grid=grid)
    pairs = student.astype(jnp.float32), jax.lax.stop_gradient(teacher).astype(jnp.float32)
    total = 0.0
    for rows in _parts(student.shape[1], grid):
        for columns in _parts(student.shape[2], grid):
            (mean_s, dev_s), (mean_t, dev_t) = (_gaussian(x[:, rows, columns]) for x in pairs)
            cell = mean_weight * jnp.square(mean_s - mean_t) + jnp.square(dev_s - dev_t)
            total += jnp.sum(cell, axis=-1)
    return total / grid**2


def _parts(size: int, count: int) -> list[slice]:
    """Returns the rows or columns of each cell, as PyTorch's adaptive average pooling."""
    return [slice(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def _gaussian(cell: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns mean and deviation [B, D] of a cell's positions."""
    if cell.shape[1] * cell.shape[2] < 2:
        raise errors.InputError(
            f"wkd compares the variance of features in cells of {cell.shape[1]}x{cell.shape[2]}"
            " positions, but needs at least two; set a smaller grid, or use larger images"
        )
    variance = jnp.var(cell, axis=(1, 2), ddof=1)
    return jnp.mean(cell, axis=(1, 2)), jnp.sqrt(variance + _EPSILON)


def wkd(
    *,
    over: str = "logits",
    temperature: float = 8.0,
    cost: str = "cka",
    sharpness: float = 1.0,
    weight_logits: float | None = None,
    weight_features: float = 0.08,
    mean_weight: float | None = None,
    grid: int = 1,
    decay_from: float = 0.625,
    total_steps: int | None = None,
) -> Objective:
    """Builds the Wasserstein distances; see `wkd_logits_loss` and `wkd_features_loss`.

    Features are those that pooling reads; the student's pass FitNet's regressor. Both distances,
    but not the label's part of the logits, are weighted by half a cosine that falls to 0 in the
    last part of the run, step by step; the published code changes the weight every epoch. Published
    for ImageNet: temperature 2, weight_logits 30 and 25, decay_from 0; weight_features 0.02 and
    0.005, mean_weight 2, grid 4, for ResNet-34 to ResNet-18 and ResNet-50 to MobileNetV1.

    Args:
      over: "logits", "features" or "both".
      temperature: softmax temperature of the logits, > 0.
      cost: distance d between classes, measured once before the first step. "cka": 1 - linear CKA
        of the teacher's embeddings of their images, of up to 65 536 training images; the published
        code reads all positions of the last map. "head": 1 - cosine of the vectors of the teacher's
        classifier. See `parts.transport`.
      sharpness: the cost is 1 - exp(-sharpness d), > 0; 2 for ResNet-50 to MobileNetV1.
      weight_logits: weight of the transport, >= 0; None for the published weight, 600, and 200 with
        over="both".
      weight_features: weight of the features' distance, >= 0.
      mean_weight: weight of means relative to deviations, >= 0; None for the published weight, 4,
        and 8 with over="both".
      grid: rows and columns of cells with separate statistics of features.
      decay_from: share of the run after which the weights fall, in [0, 1]; 1 for constant weights.
      total_steps: number of batches of the run.

    Raises:
      InputError: an option is unknown or out of range; in `init`, the teacher has no classifier
        for cost="head"; in `loss`, a cell has fewer than two positions.
    """
    errors.lookup("over", over, dict.fromkeys(_OVER))
    errors.lookup("cost", cost, dict.fromkeys(_COSTS))
    errors.check_positive(temperature=temperature, sharpness=sharpness)
    errors.check_counts(grid=grid)
    published = _TOGETHER if over == "both" else _ALONE
    weight_logits = published[0] if weight_logits is None else weight_logits
    mean_weight = published[1] if mean_weight is None else mean_weight
    for name, weight in {
        "weight_logits": weight_logits,
        "weight_features": weight_features,
        "mean_weight": mean_weight,
    }.items():
        check_weights(**{name: weight})
    check_shares(decay_from=decay_from)
    with_logits, with_features = over != "features", over != "logits"

    def init(key, student, teacher):
        params, frozen, memory = (), (), ()
        if with_features:
            stack = adapters.regressor(student.patches.shape, teacher.patches.shape)
            params = adapters.init(key, stack, student.patches.shape[-1])
        if with_logits:
            classes = student.logits.shape[-1]
            distance = 1 - jnp.eye(classes)
            if cost == "head":
                distance = transport.head_distances("wkd", teacher.head)
            frozen = {"cost": _sharpened(distance, sharpness)}
        if decay_from < 1:
            memory = {"steps": jnp.int32(0)}
        return ObjectiveState(params, frozen, memory)

    def loss(state, student, teacher, batch):
        factor, memory, losses = 1.0, state.memory, 0.0
        if memory:
            done = memory["steps"] / (total_steps or 1)
            late = jnp.clip((done - decay_from) / (1 - decay_from), 0, 1)
            factor, memory = (1 + jnp.cos(jnp.pi * late)) / 2, {"steps": memory["steps"] + 1}
        if with_logits:
            arguments = {"temperature": temperature, "weight": factor * weight_logits}
            losses += mixed_loss(
                lambda labels: wkd_logits_loss(
                    student.logits, teacher.logits, labels, state.frozen["cost"], **arguments
                ),
                batch,
            )
        if with_features:
            pair = _adapted(state.params, student.patches, teacher.patches)
            distance = wkd_features_loss(*pair, grid=grid, mean_weight=mean_weight)
            losses += factor * weight_features * distance
        return losses, memory

    def measure(state, teacher, labels):
        classes = len(state.frozen["cost"])
        distance = transport.cka_distances(teacher.embedding, labels, classes)
        cost = np.asarray(_sharpened(distance, sharpness), np.float32)
        return state._replace(frozen={"cost": cost})

    return Objective(
        init,
        loss,
        needs_maps=False,
        needs_patches=with_features,
        measure=measure if with_logits and cost == "cka" else None,
        measured=65_536,
    )


def _sharpened(distance: Any, sharpness: float) -> Any:
    return -jnp.expm1(-sharpness * distance)


def _adapted(
    params: dict[str, Any], student: jax.Array, teacher: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the student's features after the regressor, and the teacher's in the same size."""
    adapted = adapters.apply(adapters.regressor(student.shape, teacher.shape), params, student)
    return adapted, pool(teacher, *adapted.shape[1:3])


RECORD = Record(
    wkd,
    "probabilities moved between related classes, or Gaussians of channels",
    "arXiv 2412.08139",
    needs_labels=True,
    filled_in=("total_steps",),
)
