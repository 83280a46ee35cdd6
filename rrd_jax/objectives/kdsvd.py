"""KDSVD: relations between singular vectors of feature maps (arXiv 1807.06819)."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, Record
from rrd_jax.objectives.parts.arithmetic import unit
from rrd_jax.objectives.parts.maps import Maps, over_taps

# Additional directions of the student, from which the closest to the teacher's are selected.
_SPARE = 3
# Gaps and eigenvalues below this share of the largest eigenvalue are rounding errors in float32.
_WEAK = 1e-5


def principal_directions(x: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Computes the leading right singular vectors of [HW, C], and their singular values.

    The vectors are computed from the eigenvectors of the smaller Gram matrix. Vectors with a
    singular value near 0 become 0, and vectors with nearly equal singular values have no gradient
    with respect to each other.

    Args:
      x: [B, H, W, C].
      count: number k of vectors; at most min(HW, C) are returned.

    Returns:
      (vectors [B, C, k] of length 1, signed so that their sum is not negative, and singular values
      [B, k] in descending order).
    """
    rows = x.astype(jnp.float32).reshape(len(x), -1, x.shape[-1])
    wide = rows.shape[1] < rows.shape[2]
    form = "bic,bjc->bij" if wide else "bic,bid->bcd"
    values, vectors = _eigh(jnp.einsum(form, rows, rows, precision="highest"))
    values, vectors = values[:, :count], vectors[..., :count]
    if wide:
        vectors = jnp.einsum("bic,bik->bck", rows, vectors, precision="highest")
        vectors = unit(vectors.swapaxes(1, 2)).swapaxes(1, 2)
    strong = values > _WEAK * values[:, :1]
    vectors = jnp.where(strong[:, None], vectors, 0.0)
    sign = jnp.where(jnp.sum(vectors, axis=1, keepdims=True) < 0, -1.0, 1.0)
    strengths = jnp.sqrt(jnp.where(strong, values, 1.0)) * strong
    return vectors * sign, strengths


def kdsvd_loss(
    student: Maps,
    teacher: Maps,
    *,
    rank: int = 1,
    directions: Sequence[jax.Array] | None = None,
) -> jax.Array:
    """Computes KDSVD: the distance of relations between singular vectors of consecutive taps.

    V_i [C_i, rank] are the teacher's right singular vectors at tap i, times their singular values,
    which are scaled to a vector of length 1. The student's V_i are selected from its first rank + 3
    singular vectors as the closest to the teacher's, and take the teacher's signs and singular
    values.

        r_i[c, d, k] = exp(-(V_i[c, k] - V_{i-1}[d, k])^2 / 8)
        loss = sum over i >= 1 and all entries of (r_i(student) - r_i(teacher))^2

    Args:
      student: at least two maps [B, H, W, C_i].
      teacher: the same number of maps with the same channels, constant for gradients; heights and
        widths may differ.
      rank: number of singular vectors per map, >= 1.
      directions: precomputed singular vectors [B, C_i, rank] of the teacher, of length 1; None to
        compute them. The loss depends on their signs, which `principal_directions` fixes.

    Returns:
      [B] losses >= 0.

    Raises:
      InputError: the rank is below 1 or above the rank of a map, there are fewer than two maps, or
        the channels differ.

    References:
      Lee et al., arXiv 1807.06819.
    """
    errors.check_counts(rank=rank)
    channels = [[x.shape[-1] for x in maps] for maps in (student, teacher)]
    if len(student) < 2 or channels[0] != channels[1]:
        raise errors.InputError(
            f"kdsvd compares two or more maps with equal channels, but channels are {channels[0]}"
            f" of the student and {channels[1]} of the teacher; choose networks with equal channels"
        )
    sizes = [min(math.prod(x.shape[1:3]), x.shape[-1]) for x in (*student, *teacher)]
    if rank > min(sizes):
        raise errors.InputError(
            f"rank is {rank}, but must be at most {min(sizes)}, the rank of the smallest map"
        )
    total, previous = 0.0, None
    for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
        targets, strengths = jax.lax.stop_gradient(principal_directions(t, rank))
        if directions is not None:
            targets = jax.lax.stop_gradient(directions[i].astype(jnp.float32))
        candidates, _ = principal_directions(s, rank + _SPARE)
        weights = unit(strengths)[:, None]
        current = _closest(candidates, targets) * weights, targets * weights
        if previous is not None:
            relations = [
                jnp.exp(-jnp.square(new[:, :, None] - old[:, None]) / 8)
                for new, old in zip(current, previous, strict=True)
            ]
            total += jnp.sum(jnp.square(relations[0] - relations[1]), axis=(1, 2, 3))
        previous = current
    return total


def kdsvd(*, rank: int = 1) -> Objective:
    """Builds KDSVD on all taps after the stem, which must have equal channels; see `kdsvd_loss`."""
    errors.check_counts(rank=rank)
    loss = functools.partial(kdsvd_loss, rank=rank)
    return over_taps(loss, equal_channels=True)


def _closest(candidates: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns the candidate with the largest |cosine| for each target, with the target's sign.

    Args:
      candidates: [B, C, l].
      targets: [B, C, k].

    Returns:
      [B, C, k].
    """
    cosine = jnp.einsum("bcl,bck->blk", candidates, targets, precision="highest")
    best = jax.nn.one_hot(jnp.argmax(jnp.abs(cosine), axis=1), candidates.shape[-1], axis=1)
    choice = jax.lax.stop_gradient(best * jnp.where(cosine < 0, -1.0, 1.0))
    return jnp.einsum("bcl,blk->bck", candidates, choice, precision="highest")


@jax.custom_jvp
def _eigh(gram: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns eigenvalues [B, n], in descending order, and eigenvectors [B, n, n]."""
    values, vectors = jnp.linalg.eigh(gram)
    return values[..., ::-1], vectors[..., ::-1]


@_eigh.defjvp
def _eigh_jvp(primals, tangents):
    values, vectors = _eigh(*primals)
    rotated = jnp.einsum("bci,bcd,bdj->bij", vectors, tangents[0], vectors, precision="highest")
    gap = values[:, None, :] - values[:, :, None]
    is_distinct = jnp.abs(gap) > _WEAK * values[:, :1, None]
    mixing = jnp.where(is_distinct, rotated / jnp.where(is_distinct, gap, 1.0), 0.0)
    vector_tangents = jnp.einsum("bci,bij->bcj", vectors, mixing, precision="highest")
    return (values, vectors), (jnp.diagonal(rotated, axis1=1, axis2=2), vector_tangents)


RECORD = Record(
    kdsvd,
    "singular vectors of consecutive maps (equal channels)",
    "arXiv 1807.06819",
    verified=False,
    needs_classes=False,
)
