"""Embedding distillation: regression of the teacher's embedding, of images or of patches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.parts import patches, projections, standardization
from rrd_jax.objectives.parts.arithmetic import unit

# Distance at which smooth L1 becomes linear: in standard deviations for images, in the unit of the
# teacher's features for patches and UNIC.
_BEND, _PATCH_BEND = 2.0, 1.0


def embed_loss(student: jax.Array, teacher: jax.Array, *, distance: str = "cosine") -> jax.Array:
    """Computes the distance between the two networks' embeddings of each image.

        cosine:     1 - cos(s, t)
        smooth_l1:  mean over d of h(s_d - z_d), with z the standardized embedding of the teacher;
                    h(x) = x^2 / 4 up to |x| = 2, then |x| - 1
        unic:       (1 - cos(s, t)) / 2 + mean over d of h(s_d - t_d) / 2;
                    h(x) = x^2 / 2 up to |x| = 1, then |x| - 1 / 2

    Args:
      student: [B, D].
      teacher: [B, D], constant for gradients.
      distance: "cosine", as in arXiv 2211.07636; "smooth_l1", as in arXiv 2205.14141; or "unic", as
        in arXiv 2408.05088.

    Returns:
      [B] losses >= 0.

    Raises:
      InputError: the distance is unknown.
    """
    distance = errors.lookup("distance", distance, _DISTANCES)
    wide = jnp.promote_types(jnp.result_type(student, teacher), jnp.float32)
    return distance(student.astype(wide), jax.lax.stop_gradient(teacher).astype(wide))


def _cosine(student: jax.Array, teacher: jax.Array) -> jax.Array:
    # Half the squared difference of unit vectors stays accurate if the vectors agree.
    return jnp.sum(jnp.square(unit(student) - unit(teacher)), axis=-1) / 2


def _smooth_l1(student: jax.Array, teacher: jax.Array) -> jax.Array:
    return _smooth_distance(student, jax.nn.standardize(teacher, axis=-1), _BEND)


def _smooth_distance(student: jax.Array, teacher: jax.Array, bend: float) -> jax.Array:
    """Computes the mean over the last axis of smooth L1, which is linear from `bend` on."""
    error = jnp.abs(student - teacher)
    losses = jnp.where(error < bend, jnp.square(error) / (2 * bend), error - bend / 2)
    return jnp.mean(losses, axis=-1)


def _unic(student: jax.Array, teacher: jax.Array) -> jax.Array:
    return (_cosine(student, teacher) + _smooth_distance(student, teacher, _PATCH_BEND)) / 2


_DISTANCES = {"cosine": _cosine, "smooth_l1": _smooth_l1, "unic": _unic}


def dense_embed_loss(
    student: jax.Array, teacher: jax.Array, *, weight_cosine: float, weight_smooth_l1: float
) -> jax.Array:
    """Computes the distance between the two networks' patches, as AM-RADIO (arXiv 2312.06709).

        mean over patches of  weight_cosine (1 - cos(s, t)) + weight_smooth_l1 mean_d h(s_d - t_d),
        h(x) = x^2 / 2 up to |x| = 1, then |x| - 1 / 2

    Args:
      student: [B, N, D].
      teacher: [B, N, D], constant for gradients.
      weight_cosine: factor of the cosine's term; AM-RADIO has 0.9.
      weight_smooth_l1: factor of smooth L1; AM-RADIO has 0.1.

    Returns:
      [B] losses >= 0.
    """
    wide = jnp.promote_types(jnp.result_type(student, teacher), jnp.float32)
    student, teacher = student.astype(wide), jax.lax.stop_gradient(teacher).astype(wide)
    losses = weight_cosine * _cosine(student, teacher)
    losses += weight_smooth_l1 * _smooth_distance(student, teacher, _PATCH_BEND)
    return jnp.mean(losses, axis=-1)


def embed(
    *,
    distance: str = "cosine",
    head: str = "linear",
    head_width: int | None = None,
    over: str = "images",
    weight_cosine: float = 0.9,
    weight_smooth_l1: float = 0.1,
    standardize: str = "none",
    total_steps: int | None = None,
) -> Objective:
    """Builds the distance between the student's embedding, after a head, and the teacher's.

    Over patches, the loss is `dense_embed_loss`, with a separate head; the coarser of the two grids
    is resized to the finer one. With over="both", the loss over images is added.

    Args:
      distance: "cosine", "smooth_l1" or "unic", for embeddings of images; see `embed_loss`.
      head: head of the student, "linear"; "mlp" for two layers with a ReLU in between; or
        "orthogonal" for a matrix with orthonormal rows or columns (VkD, arXiv 2403.06213).
      head_width: hidden width of the MLP; None for the student's embedding dimension.
      over: "images" for embeddings of images, "patches", or "both".
      weight_cosine: factor of the cosine's distance between patches.
      weight_smooth_l1: factor of smooth L1 between patches. With over="both" and both factors 0,
        the objective is that of over="images".
      standardize: standardization of the teacher's features. "channels": to mean 0 and standard
        deviation 1 of each channel (EUPE, arXiv 2603.22387); "phi_s": by a rotation to channels of
        equal variance (PHI-S, arXiv 2410.01680); both are measured on training images before the
        first step. "running": by running statistics of each channel (UNIC, arXiv 2408.05088).
        "none": not standardized.
      total_steps: number of batches of the run, for "running".

    Raises:
      InputError: the distance, head or standardization is unknown, or a value is out of range.
    """
    errors.lookup("distance", distance, _DISTANCES)
    errors.lookup("standardize", standardize, dict.fromkeys(standardization.KINDS))
    projections.check_head(head, head_width)
    weights = {"weight_cosine": weight_cosine, "weight_smooth_l1": weight_smooth_l1}
    patches.check(over, **weights)
    common = head, head_width, standardize, total_steps or 1
    dense = _over_patches(weights, *common) if any(weights.values()) else None
    return patches.combined(over, _over_images(distance, *common), dense)


def _over_images(
    distance: str, head: str, head_width: int | None, standardize: str, total_steps: int
) -> Objective:
    def init(key: jax.Array, student: Any, teacher: Any) -> ObjectiveState:
        features, dim = (outputs.embedding.shape[-1] for outputs in (student, teacher))
        params = projections.init_head(key, features, dim, head, head_width)
        return ObjectiveState(params, *_init_standardization(standardize, dim))

    def loss(state, student, teacher, batch):
        del batch
        embedding = projections.apply_head(state.params, student.embedding)
        target = standardization.apply(state.frozen, state.memory, teacher.embedding)
        memory = standardization.updated(state.memory, teacher.embedding, total_steps)
        return embed_loss(embedding, target, distance=distance), memory

    def measure(state, teacher, labels):
        del labels
        return state._replace(frozen=standardization.measure(standardize, teacher.embedding))

    return Objective(
        init,
        loss,
        needs_maps=False,
        head=_trained_head(standardize, is_unit=distance == "cosine"),
        head_needs_memory=standardize == "running",
        needs_index=False,
        measure=measure if standardize in standardization.MEASURED else None,
    )


def _over_patches(
    weights: dict[str, float],
    head: str,
    head_width: int | None,
    standardize: str,
    total_steps: int,
) -> Objective:
    def init(key: jax.Array, student: Any, teacher: Any) -> ObjectiveState:
        params = patches.init_head(key, student, teacher, head, head_width)
        dim = teacher.patches.shape[-1]
        return ObjectiveState(params, *_init_standardization(standardize, dim))

    def loss(state, student, teacher, batch):
        del batch
        target = standardization.apply(state.frozen, state.memory, teacher.patches)
        memory = standardization.updated(state.memory, teacher.patches, total_steps)
        pair = patches.pairs(state.params, student, teacher._replace(patches=target))
        return dense_embed_loss(*pair, **weights), memory

    def measure(state, teacher, labels):
        del labels
        rows = teacher.patches.reshape(-1, teacher.patches.shape[-1])
        return state._replace(frozen=standardization.measure(standardize, rows))

    return Objective(
        init,
        loss,
        needs_maps=False,
        needs_patches=True,
        patch_head=_trained_head(standardize, is_unit=not weights["weight_smooth_l1"]),
        head_needs_memory=standardize == "running",
        needs_index=False,
        measure=measure if standardize in standardization.MEASURED else None,
    )


def _trained_head(
    standardize: str, *, is_unit: bool
) -> Callable[[ObjectiveState], tuple[Any, bool]] | None:
    """Returns the function of the head to the teacher's features as they are, see `Objective`.

    Args:
      standardize: the standardization of the features, which the head undoes.
      is_unit: whether vectors of length 1 are compared. Their lengths are not trained, so that the
        standardization cannot be undone; the result is then None.
    """

    def head(state: ObjectiveState) -> tuple[Any, bool]:
        if is_unit:
            return state.params, True
        layers = projections.layers(state.params)
        last = standardization.restored(state.frozen, state.memory, layers.get("out", layers))
        return ({**layers, "out": last} if "out" in layers else last), False

    return None if is_unit and standardize != "none" else head


def _init_standardization(standardize: str, dim: int) -> tuple[Any, Any]:
    if standardize == "phi_s":
        standardization.check_order(dim)
    return standardization.init(standardize, dim)


RECORD = Record(
    embed,
    "embeddings, per image or patch",
    "arXiv 2211.07636",
    verified=False,
    needs_classes=False,
    filled_in=("total_steps",),
)
