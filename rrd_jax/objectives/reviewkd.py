"""ReviewKD: knowledge review (arXiv 2104.09044)."""

from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors, functional
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.parts import adapters
from rrd_jax.objectives.parts.adapters import Layer
from rrd_jax.objectives.parts.maps import Maps, before_relu
from rrd_jax.objectives.parts.pooling import nearest, pool


def hcl_loss(fused: Maps, teacher: Maps) -> jax.Array:
    """Computes the hierarchical context loss: mean squared differences on a pyramid of sizes.

    With D_n the mean square after adaptive average pooling to n x n, and D_H without pooling:

        loss = sum over levels of (D_H + D_4 / 2 + D_2 / 4 + D_1 / 8) / (1 + 1/2 + 1/4 + 1/8)

    Sizes n >= H are omitted; the weights of the remaining sizes are 1/2, 1/4 and so on.

    Args:
      fused: [B, H, W, C], the student's fused map of each level.
      teacher: [B, H, W, C], the teacher's map of each level, constant for gradients.

    Returns:
      [B] losses >= 0.

    References:
      Chen et al., arXiv 2104.09044, section 3.3.
    """
    total = 0.0
    for s, t in zip(fused, teacher, strict=True):
        # Pooling is linear, so the difference is pooled instead of both maps.
        difference = s.astype(jnp.float32) - jax.lax.stop_gradient(t).astype(jnp.float32)
        loss, weights = _mean_square(difference), 1.0
        sizes = [size for size in (4, 2, 1) if size < s.shape[1]]
        for halvings, size in enumerate(sizes, start=1):
            if difference.shape[1] % size or difference.shape[2] % size:
                pooled = pool(difference, size, size)
            else:
                # The tiles are equal, so that smaller sizes can be pooled from this result.
                pooled = difference = pool(difference, size, size)
            loss += 0.5**halvings * _mean_square(pooled)
            weights += 0.5**halvings
        total += loss / weights
    return total


def _mean_square(difference: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(difference), axis=(1, 2, 3))


def reviewkd_fuse(params: dict, student: Maps, teacher: Maps) -> list[jax.Array]:
    """Applies ReviewKD's attention-based fusion, which mixes each level with the later levels.

        x_i = c1(F_i);  below the last level x_i = a x_i + b up(x_{i+1}),  (a, b) = sigmoid(c(both))
        fused_i = c2(x_i resized to the teacher's size)

    with c1 a 1x1 and c2 a 3x3 convolution with batch norm, and c a 1x1 convolution. Maps are
    resized by nearest-neighbor sampling.

    Args:
      params: {"level<i>": {"in", "out", "attention"}}, from the state of `reviewkd`.
      student: maps [B, H, W, channels], in network order.
      teacher: the same number of maps, of which only the shapes are used.

    Returns:
      Maps in the teacher's shapes, in network order.
    """
    fused, later = [], None
    for i in reversed(range(len(student))):
        level, (height, width, channels) = params[f"level{i}"], teacher[i].shape[1:]
        inside = level["in"]["layer0"]["kernel"].shape[-1]
        x = adapters.apply(_level_in(inside), level["in"], student[i])
        if later is not None:
            later = nearest(later, *x.shape[1:3])
            weights = jax.nn.sigmoid(_attention(level["attention"]["layer0"], x, later))
            x = x * weights[..., :1] + later * weights[..., 1:]
        later = nearest(x, height, width)
        fused.append(adapters.apply(_level_out(channels), level["out"], later))
    return fused[::-1]


def _attention(params: dict, x: jax.Array, later: jax.Array) -> jax.Array:
    """Returns c(both) [B, H, W, 2], as a sum of two convolutions instead of a concatenation."""
    kernels = jnp.split(params["kernel"], 2, axis=2)
    return functional.add_bias(
        sum(
            functional.convolve(part, kernel, padding=(0, 0))
            for part, kernel in zip((x, later), kernels, strict=True)
        ),
        params["bias"],
    )


def reviewkd(*, width: int | None = None) -> Objective:
    """Builds ReviewKD on the taps after the stem, before their last ReLU, and on the embedding.

    See `reviewkd_fuse` and `hcl_loss`. Published weights for CIFAR-100: 0.6 for resnet56 to
    resnet20, 1 for resnet110 to resnet32, 8 for resnet32x4 to shufflenetv2_cifar, 5 for all other
    pairs. Weights grow linearly over the first 20 epochs; the trainer applies this warm-up.

    Args:
      width: number of channels of the fused maps; None for the student's embedding dimension, at
        most 512.
    """
    if width is not None:
        errors.check_counts(width=width)

    def init(key, student, teacher):
        levels_s, levels_t = _levels(student, teacher)
        inside = width or min(512, levels_s[-1].shape[-1])
        params = {}
        for i, (s, t) in enumerate(zip(levels_s, levels_t, strict=True)):
            in_key, out_key, attention_key = jax.random.split(jax.random.fold_in(key, i), 3)
            # A gain of sqrt(3) is He initialization without an activation.
            level = {
                "in": adapters.init(in_key, _level_in(inside), s.shape[-1], gain=3**0.5),
                "out": adapters.init(out_key, _level_out(t.shape[-1]), inside, gain=3**0.5),
            }
            if i < len(levels_s) - 1:
                level["attention"] = adapters.init(attention_key, _ATTENTION, 2 * inside)
            params[f"level{i}"] = level
        return ObjectiveState(params=params)

    def loss(state, student, teacher, batch):
        del batch
        levels_s, levels_t = _levels(student, teacher)
        levels_s[-1], levels_t[-1] = (x[:, None, None] for x in (levels_s[-1], levels_t[-1]))
        return hcl_loss(reviewkd_fuse(state.params, levels_s, levels_t), levels_t), state.memory

    return Objective(init, loss, taps=before_relu)


def _levels(student: Any, teacher: Any) -> tuple[list, list]:
    """Returns the levels of student and teacher: the paired maps, then the embedding [B, D]."""
    maps_s, maps_t = zip(*before_relu(student, teacher), strict=True)
    return [*maps_s, student.embedding], [*maps_t, teacher.embedding]


_ATTENTION = (Layer(2, bias=True, norm=False, slope=1.0),)


def _level_in(width: int) -> tuple[Layer, ...]:
    return (Layer(width, slope=1.0),)


def _level_out(channels: int) -> tuple[Layer, ...]:
    return (Layer(channels, (3, 3), padding=1, slope=1.0),)


RECORD = Record(
    reviewkd,
    "maps fused from last to first, on pyramids of sizes",
    "arXiv 2104.09044",
    # The weight for most pairs; see `reviewkd` for exceptions.
    weight=5.0,
    warmup=20,
    needs_classes=False,
)
