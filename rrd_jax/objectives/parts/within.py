"""Cross-entropy of the relations between the patches of each image, with its gradient.

With Z and U the patches of student and teacher, each divided by the root of its temperature, and
G = softmax(Z Z') - softmax(U U') by rows:

    loss = mean of the cross-entropies of the N rows,   its gradient for Z = (G + G') Z / N

Value and gradient are computed in one pass over the images, a few at a time, so that the [N, N]
arrays of the whole batch never exist and the backward pass only keeps the gradient.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec

from rrd_jax.objectives.parts import relations
from rrd_jax.objectives.parts.arithmetic import matmul

# Similarities of each network that are computed at once, 8 MiB: on two cores, 32 images of 256
# patches at once take 0.7 of the time of 4 at a time, with about three arrays of this size.
_SIMILARITIES = 2**21


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def cross_entropy(
    student: jax.Array, teacher: jax.Array, diagonal: bool, mesh: AbstractMesh | None = None
) -> jax.Array:
    """Computes - mean_i sum_j softmax_j(u_i . u_j) log softmax_j(z_i . z_j) within each image.

    The gradient for `student` is computed in the same pass; `teacher` is constant.

    Args:
      student: [B, N, D] patches z, divided by the root of their temperature.
      teacher: [B, N, E] patches u, likewise.
      diagonal: whether j = i takes part; if not, N must be at least 2.
      mesh: devices that share the images if their number divides B; None for one device.

    Returns:
      [B], in nats, float32 or wider.
    """
    return _losses(student, teacher, diagonal, mesh, gradient=False)[0]


def _forward(student, teacher, diagonal, mesh):
    losses, direction = _losses(student, teacher, diagonal, mesh, gradient=True)
    return losses, direction.astype(student.dtype)


def _backward(diagonal, mesh, direction, gradient):
    del diagonal, mesh
    return (gradient[:, None, None] * direction).astype(direction.dtype), None


cross_entropy.defvjp(_forward, _backward)


def _losses(student, teacher, diagonal, mesh, *, gradient):
    """Returns losses [B], and their gradient [B, N, D] or None."""
    compare = functools.partial(_of_images, diagonal=diagonal, gradient=gradient)
    in_parts = functools.partial(_in_parts, compare)
    axes = relations.auto_axes(mesh) if mesh else ()
    count = math.prod(mesh.shape[axis] for axis in axes)
    if count == 1 or len(student) % count:
        return in_parts(student, teacher)
    split = PartitionSpec(axes)
    mapped = jax.shard_map(
        in_parts, mesh=mesh, axis_names=set(axes), in_specs=(split, split), out_specs=split
    )
    return mapped(student, teacher)


def _in_parts(compare, student, teacher):
    """Applies `compare` to a few images at a time."""
    batch, patches, _ = student.shape
    at_once = max(1, _SIMILARITIES // patches**2)
    if batch <= at_once:
        return compare(student, teacher)
    parts = -(-batch // at_once)
    width = -(-batch // parts)
    padding = ((0, parts * width - batch), (0, 0), (0, 0))
    arrays = (
        jnp.pad(array, padding).reshape(parts, width, *array.shape[1:])
        for array in (student, teacher)
    )
    results = jax.lax.map(lambda part: compare(*part), tuple(arrays))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:batch], results)


def _of_images(student, teacher, *, diagonal, gradient):
    """Returns losses [B], and their gradient [B, N, D] or None, of all images at once."""
    patches = student.shape[1]
    included = jnp.ones((patches, patches), bool) if diagonal else ~jnp.eye(patches, dtype=bool)
    shifted, weights, total = _softmax(student, included)
    _, teacher_weights, teacher_total = _softmax(teacher, included)
    shares = teacher_weights / teacher_total
    # Relative to the row's maximum: the difference of two large numbers would lose digits.
    losses = jnp.log(total[..., 0]) - jnp.sum(shares * shifted, axis=-1)
    losses = jnp.mean(losses, axis=-1)
    if not gradient:
        return losses, None
    difference = weights / total - shares
    difference += difference.swapaxes(1, 2)
    return losses, matmul(difference, student) / patches


def _softmax(x, included):
    """Returns (similarities - maximum, their exponentials, the exponentials' sums) of rows.

    Excluded similarities count as the maximum, with an exponential of 0, so that no product of the
    loss is infinite times 0.
    """
    similarities = matmul(x, x.swapaxes(1, 2))
    top = jnp.max(similarities, axis=-1, keepdims=True, where=included, initial=-jnp.inf)
    shifted = jnp.where(included, similarities - top, 0)
    weights = jnp.where(included, jnp.exp(shifted), 0)
    return shifted, weights, jnp.sum(weights, axis=-1, keepdims=True)
