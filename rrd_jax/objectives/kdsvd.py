"""KDSVD: the directions that span a network's maps, and how they turn (arXiv 1807.06819)."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, Record
from rrd_jax.objectives.parts.arithmetic import unit
from rrd_jax.objectives.parts.maps import Maps, over_taps

_SPARE = 3  # directions of the student beyond the teacher's, to choose from
_WEAK = 1e-5  # gaps and eigenvalues below this share of the largest say nothing in float32


def principal_directions(x: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The largest right singular vectors of [HW, C], and their singular values.

    They come from the eigenvectors of the smaller Gram matrix. Directions of (almost) no strength
    are 0, and those of (almost) the same strength get no gradient from each other.

    Args:
      x: [B, H, W, C].
      count: k; no more than min(HW, C) come out.

    Returns:
      [B, C, k] of length 1, signed so that their sum is not negative, and [B, k], the largest
      first.
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
    """The relations between the singular vectors of consecutive taps.

    With V_i [C_i, rank] the teacher's right singular vectors at tap i, times their singular values
    (of length 1 together), and for the student those of its first rank + 3 that are closest to
    the teacher's, with their signs and strengths:

        r_i[c, d, k] = exp(-(V_i[c, k] - V_{i-1}[d, k])^2 / 8)
        loss = sum over i >= 1 and all entries of (r_i(student) - r_i(teacher))^2

    Args:
      student: two or more maps [B, H, W, C_i].
      teacher: as many, with the same channels, constant for gradients; sizes may differ.
      rank: k >= 1.
      directions: [B, C_i, rank] of the teacher where they are known already, of length 1. Their
        signs are free, but count; `principal_directions` fixes them.

    Returns:
      [B] losses >= 0.

    Raises:
      InputError: a rank below 1 or beyond what a map has, or maps that do not fit.

    References:
      Lee et al., arXiv 1807.06819.
    """
    errors.check_counts(rank=rank)
    channels = [[x.shape[-1] for x in maps] for maps in (student, teacher)]
    if len(student) < 2 or channels[0] != channels[1]:
        raise errors.InputError(
            f"kdsvd needs two or more maps of the same channels on both sides, not {channels[0]}"
            f" of the student and {channels[1]} of the teacher"
        )
    sizes = [min(math.prod(x.shape[1:3]), x.shape[-1]) for x in (*student, *teacher)]
    if rank > min(sizes):
        raise errors.InputError(f"rank is {rank}, but a map has only {min(sizes)} directions")
    total, before = 0.0, None
    for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
        wanted, strengths = jax.lax.stop_gradient(principal_directions(t, rank))
        if directions is not None:
            wanted = jax.lax.stop_gradient(directions[i].astype(jnp.float32))
        available, _ = principal_directions(s, rank + _SPARE)
        weights = unit(strengths)[:, None]
        pair = _closest(available, wanted) * weights, wanted * weights
        if before is not None:
            relations = [
                jnp.exp(-jnp.square(now[:, :, None] - then[:, None]) / 8)
                for now, then in zip(pair, before, strict=True)
            ]
            total += jnp.sum(jnp.square(relations[0] - relations[1]), axis=(1, 2, 3))
        before = pair
    return total


def kdsvd(*, rank: int = 1) -> Objective:
    """KDSVD over all taps behind the stem, which must have the same channels; see `kdsvd_loss`."""
    errors.check_counts(rank=rank)
    loss = functools.partial(kdsvd_loss, rank=rank)
    return over_taps(loss, equal_channels=True)


def _closest(available: jax.Array, wanted: jax.Array) -> jax.Array:
    """For each vector of `wanted` the available one with the largest |cosine|, with its sign.

    Args:
      available: [B, C, l].
      wanted: [B, C, k].

    Returns:
      [B, C, k].
    """
    cosine = jnp.einsum("bcl,bck->blk", available, wanted, precision="highest")
    best = jax.nn.one_hot(jnp.argmax(jnp.abs(cosine), axis=1), available.shape[-1], axis=1)
    choice = jax.lax.stop_gradient(best * jnp.where(cosine < 0, -1.0, 1.0))
    return jnp.einsum("bcl,blk->bck", available, choice, precision="highest")


@jax.custom_jvp
def _eigh(gram: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues [B, n], largest first, and eigenvectors [B, n, n] of symmetric matrices."""
    values, vectors = jnp.linalg.eigh(gram)
    return values[..., ::-1], vectors[..., ::-1]


@_eigh.defjvp
def _eigh_jvp(primals, tangents):
    values, vectors = _eigh(*primals)
    turned = jnp.einsum("bci,bcd,bdj->bij", vectors, tangents[0], vectors, precision="highest")
    gap = values[:, None, :] - values[:, :, None]
    apart = jnp.abs(gap) > _WEAK * values[:, :1, None]
    turns = jnp.where(apart, turned / jnp.where(apart, gap, 1.0), 0.0)
    moved = jnp.einsum("bci,bij->bcj", vectors, turns, precision="highest")
    return (values, vectors), (jnp.diagonal(turned, axis1=1, axis2=2), moved)


RECORD = Record(
    kdsvd,
    "singular vectors of consecutive maps; equal channels",
    "arXiv 1807.06819",
    verified=False,
    needs_classes=False,
)
