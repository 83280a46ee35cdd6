"""Virtual relation matching (arXiv 2502.20760)."""

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, Record, stateless
from rrd_jax.objectives.parts.arithmetic import matmul, ratio, root
from rrd_jax.objectives.parts.checks import as_float32_batches, check_weights
from rrd_jax.objectives.parts.logits import Views, two_views

# Edges between almost equal points are not compared: rounding would choose their direction.
_CLOSEST = 1e-5


def edge_distances(student: Views, teacher: Views) -> jax.Array:
    """Computes the distances of edges from points of the first view to points of the second view.

        D[m, n] = |e_s - e_t|^2 / 2 = 1 - cos(a_s - b_s, a_t - b_t)

    with e the vector from point b_n of the second view to point a_m of the first view, scaled to
    length 1. D is 0 for an edge without length. Memory is O(M^2), not O(M^2 D).

    Args:
      student: [M, D] points of each view.
      teacher: [M, E] points of each view, E = D, constant for gradients.

    Returns:
      [M, M] distances in [0, 2].
    """
    (a_s, b_s), (a_t, b_t) = (
        as_float32_batches(*pair)
        for pair in ((student.first, student.second), (teacher.first, teacher.second))
    )
    products = _differences(a_s, b_s, a_t, b_t)
    lengths = _lengths(a_s, b_s) * _lengths(a_t, b_t)
    return jnp.where(lengths > 0, 1 - ratio(products, lengths), 0)


def _differences(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> jax.Array:
    """Returns (a_m - b_n) . (c_m - d_n) [M, M]."""
    same = jnp.sum(a * c, axis=-1)[:, None] + jnp.sum(b * d, axis=-1)[None]
    return same - matmul(a, d.T) - matmul(c, b.T)


def _lengths(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns |a_m - b_n| [M, M]; 0 with gradient 0 if the points are almost equal."""
    sizes = jnp.sum(jnp.square(a), axis=-1)[:, None] + jnp.sum(jnp.square(b), axis=-1)[None]
    square = _differences(a, b, a, b)
    return root(jnp.where(square > _CLOSEST * sizes, square, 0))


def vrm_loss(
    student: Views,
    teacher: Views,
    *,
    samples: float = 1.0,
    classes: float = 1.0,
    keep: float = 0.5,
) -> jax.Array:
    """Computes the distances of relations between the two views, of images and of classes.

        loss = samples mean_n k_mn D[m, n] + classes mean_cd D'[c, d]

    with `edge_distances` D of the images' logits in R^C and D' of the classes' logits in R^B. Edges
    within a view are left out, and k is 1 for the share `keep` of edges with the smallest joint
    entropy H(p(z_m)) + H(p(z_n)) of the student's predictions, and 0 for others.

    The relations and the two kinds of pruning follow the paper; the threshold, the squared distance
    in place of Huber's, and the weights are specific to rrd_jax.

    Args:
      student: the student's [B, C] logits of each view.
      teacher: the teacher's [B, C] logits of each view, constant for gradients.
      samples: weight of the images' relations, >= 0.
      classes: weight of the classes' relations, >= 0.
      keep: share of the images' relations that are compared, in (0, 1].

    Returns:
      [B] losses >= 0; the part of classes is the same for all images.

    References:
      Zhang et al., arXiv 2502.20760.
    """
    check_weights(samples=samples, classes=classes)
    _check_share(keep)
    teacher = Views(*(jax.lax.stop_gradient(z) for z in teacher))
    losses = edge_distances(student, teacher)
    if keep < 1:
        first, second = (jax.lax.stop_gradient(_entropies(z)) for z in student)
        joint = first[:, None] + second[None]
        losses = jnp.where(joint <= jnp.quantile(joint, keep), losses, 0)
    columns = (Views(*(z.astype(jnp.float32).T for z in views)) for views in (student, teacher))
    return samples * jnp.mean(losses, axis=1) + classes * jnp.mean(edge_distances(*columns))


def _entropies(logits: jax.Array) -> jax.Array:
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def _check_share(keep: float) -> None:
    if not 0 < keep <= 1:
        raise errors.InputError(f"keep is {keep}, but must be above 0 and at most 1")


def vrm(
    *,
    samples: float = 1.0,
    classes: float = 1.0,
    keep: float = 0.5,
    standardize: bool = True,
) -> Objective:
    """Builds the matching of relations between two views; see `vrm_loss`.

    Args:
      samples: weight of the images' relations, >= 0.
      classes: weight of the classes' relations, >= 0.
      keep: share of the images' relations that are compared, in (0, 1]; 1 for no pruning by
        entropy.
      standardize: whether logits are standardized over the classes first; see
        `parts.logits.standardized`.

    Raises:
      InputError: an option is out of range.
    """
    check_weights(samples=samples, classes=classes)
    _check_share(keep)
    options = {"samples": samples, "classes": classes, "keep": keep}

    def loss(student, teacher, batch):
        pairs = two_views(student, teacher, batch, standardize=standardize)
        return vrm_loss(*pairs, **options)

    return stateless(loss, needs_second=True)


RECORD = Record(
    vrm,
    "directions between two views of images, and of classes",
    "arXiv 2502.20760",
    verified=False,
)
