"""ScaleKD's attention projector, from a student's patches to a transformer's (arXiv 2411.06786)."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors, functional
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.parts import adapters, projections
from rrd_jax.objectives.parts.adapters import Layer
from rrd_jax.objectives.parts.arithmetic import unit

_EPSILON = 1e-5


def scalekd_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes the distance of normalized patches: sum over patches of |unit(s) - unit(t)|^2.

    Args:
      student: [B, N, D], the student's patches after the projector.
      teacher: [B, N, D], constant for gradients.

    Returns:
      [B] losses >= 0, at most 4 N.

    References:
      Fan et al., arXiv 2411.06786, section 3.2.
    """
    teacher = jax.lax.stop_gradient(teacher)
    return jnp.sum(jnp.square(unit(student) - unit(teacher)), axis=(1, 2))


def project(params: dict[str, Any], maps: jax.Array, heads: int, sharpness: float) -> jax.Array:
    """Projects a student's patches to the teacher's grid and width by cross-attention.

    A learned query for each of the teacher's patches attends to the student's patches, after a 3x3
    convolution with batch norm and ReLU, and with learned positions added.

    Args:
      params: the parameters of the projector, see `scalekd`.
      maps: the student's patches [B, h, w, F].
      heads: number of attention heads.
      sharpness: factor of the logits of the attention, besides 1 / sqrt(D / heads).

    Returns:
      [B, N, D], float32.
    """
    x = adapters.apply(_entry(maps.shape[-1]), params["entry"], maps)
    x = (x + params["positions"][None]).reshape(len(x), -1, x.shape[-1])
    query = functional.relu(functional.linear(params["queries"], **params["query"]))
    # Queries do not depend on the images.
    q = _split(functional.linear(query, **params["q"]), heads)
    k, v = (_split(functional.linear(x, **params[name]), heads) for name in ("k", "v"))
    scale = sharpness / q.shape[-1] ** 0.5
    precision = jax.lax.Precision.HIGHEST
    logits = scale * jnp.einsum("qhd,bkhd->bhqk", q, k, precision=precision)
    y = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits), v, precision=precision)
    y = functional.linear(y.reshape(*y.shape[:2], -1), **params["out"])
    y = _norm(y) * params["scale"][None, None] + params["shift"][None, None]
    return y + projections.apply_head(params["mlp"], y)


def _split(x: jax.Array, heads: int) -> jax.Array:
    return x.reshape(*x.shape[:-1], heads, -1)


def _norm(x: jax.Array) -> jax.Array:
    return jax.nn.standardize(x, axis=-1, epsilon=_EPSILON)


def _entry(channels: int) -> tuple[Layer, ...]:
    return (Layer(channels, (3, 3), padding=1, bias=True),)


def scalekd(
    *,
    weight_spatial: float = 0.08,
    weight_frequency: float = 0.06,
    sharpness: float = 5.0,
    heads: int | None = None,
) -> Objective:
    """Builds ScaleKD's comparison of the student's patches with those of a transformer.

    Two projectors, see `project`, feed two distances, see `scalekd_loss`: one of the patches, and
    one of the patches without their mean over the image, which is the constant term of a cosine
    transform. Of the published method, its path through the teacher's last stage is omitted, since
    objectives do not run parts of the teacher; the queries are always learned. The paper adds
    cross-entropy and kd with weight 0.5 and temperature 1.

    Args:
      weight_spatial: factor of the distance of patches, >= 0.
      weight_frequency: factor of the distance without the mean, >= 0.
      sharpness: factor of the logits of the attention, > 0.
      heads: number of attention heads, a divisor of the teacher's width D; None for the largest
        number of heads with at least 64 channels.

    Raises:
      InputError: a value is out of range, or both weights are 0; in `init`, `heads` does not divide
        D, or a network has only one patch.
    """
    errors.check_positive(sharpness=sharpness)
    if heads is not None:
        errors.check_counts(heads=heads)
    weights = {"spatial": weight_spatial, "frequency": weight_frequency}
    used = {name: weight for name, weight in weights.items() if weight}
    errors.check_positive(**{f"weight_{name}": weight for name, weight in used.items()})
    if not used:
        raise errors.InputError(
            "weight_spatial and weight_frequency are 0, so nothing is compared; set one above 0"
        )

    def init(key, student, teacher):
        dim = teacher.patches.shape[-1]
        _count(heads, dim)
        for name, outputs in (("student", student), ("teacher", teacher)):
            if math.prod(outputs.patches.shape[1:3]) == 1:
                raise errors.InputError(
                    f"scalekd compares patches of an image, but the {name} has only one; use larger"
                    " images, or choose another objective"
                )
        keys = dict(zip(weights, jax.random.split(key), strict=True))
        shapes = student.patches.shape, teacher.patches.shape
        return ObjectiveState({name: _init(keys[name], *shapes) for name in used})

    def loss(state, student, teacher, batch):
        del batch
        target = teacher.patches.astype(jnp.float32)
        target = target.reshape(len(target), -1, target.shape[-1])
        count = _count(heads, target.shape[-1])
        total = 0.0
        for name, weight in used.items():
            pair = project(state.params[name], student.patches, count, sharpness), target
            if name == "frequency":
                pair = (x - jnp.mean(x, axis=1, keepdims=True) for x in pair)
            total += weight * scalekd_loss(*pair)
        return total, state.memory

    return Objective(init, loss, needs_maps=False, needs_patches=True, needs_index=False)


def _count(heads: int | None, dim: int) -> int:
    """Returns the number of attention heads for a width; raises an InputError if it is invalid."""
    if heads is None:
        return next(n for n in range(max(1, dim // 64), 0, -1) if dim % n == 0)
    if dim % heads:
        raise errors.InputError(
            f"heads is {heads}, but must divide the {dim} channels of the teacher's patches"
        )
    return heads


def _init(key: jax.Array, student: tuple[int, ...], teacher: tuple[int, ...]) -> dict[str, Any]:
    """Initializes a projector for patches [B, h, w, F] and [B, h', w', D], as in PyTorch."""
    (*grid, features), (height, width, dim) = student[1:], teacher[1:]
    keys = iter(jax.random.split(key, 8))
    params = {
        "entry": adapters.init(next(keys), _entry(features), features),
        "positions": 0.02 * jax.random.truncated_normal(next(keys), -2, 2, (*grid, features)),
        "queries": jax.random.normal(next(keys), (height * width, dim)),
        "mlp": projections.init_head(next(keys), dim, dim, "mlp", 4 * dim),
        "scale": jnp.ones(dim),
        "shift": jnp.zeros(dim),
    }
    widths = {"query": dim, "q": dim, "k": features, "v": features, "out": dim}
    inner = jax.random.split(next(keys), len(widths))
    for (name, inputs), layer_key in zip(widths.items(), inner, strict=True):
        params[name] = projections.init(layer_key, inputs, dim)
    return params


RECORD = Record(
    scalekd,
    "patches, after a cross-attention of queries to the student's",
    "arXiv 2411.06786",
    # The published recipe is for ImageNet.
    verified=False,
    needs_classes=False,
)
