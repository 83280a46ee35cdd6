"""Objectives in which a tap of one network meets several of the other."""

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import errors
from rrd_jax.objectives import adapters, features
from rrd_jax.objectives.adapters import Layer
from rrd_jax.objectives.base import Objective, ObjectiveState
from rrd_jax.objectives.features import Maps
from rrd_jax.objectives.linear import unit

_FACTOR = 4  # batch size over the length of SemCKD's queries and keys


def semckd_attention(
    params: dict, student: Maps, teacher: Maps, *, temperature: float = 1.0
) -> jax.Array:
    """How much each tap of the student is to learn from each of the teacher's.

    From the example's similarities with the batch, in each tap, a small network makes a query
    (student) or a key (teacher) of length 1; softmax over the teacher's taps of their products.

    Args:
      params: {"queries": {tap: ...}, "keys": {tap: ...}}, of `semckd`.
      student: S maps [B, H, W, channels].
      teacher: T maps, constant for gradients.
      temperature: > 0.

    Returns:
      [B, S, T], with sum 1 over the teacher's taps.
    """
    errors.check_positive(temperature=temperature)
    layers = _embedding(len(student[0]))

    def embed(own, x):
        rows = x.astype(jnp.float32).reshape(len(x), -1)
        similarities = jnp.matmul(rows, rows.T, precision="highest")
        return unit(adapters.apply_rows(layers, own, similarities))

    teacher = jax.lax.stop_gradient(teacher)
    queries = [embed(params["queries"][f"tap{i}"], x) for i, x in enumerate(student)]
    keys = [embed(params["keys"][f"tap{j}"], x) for j, x in enumerate(teacher)]
    queries, keys = jnp.stack(queries, axis=1), jnp.stack(keys, axis=1)
    products = jnp.einsum("bsd,btd->bst", queries, keys, precision="highest")
    return jax.nn.softmax(products / temperature, axis=-1)


def semckd_loss(
    params: dict, student: Maps, teacher: Maps, *, temperature: float = 1.0
) -> jax.Array:
    """SemCKD: every tap of the student meets every tap of the teacher, as far as they are alike.

        loss = 1/S sum_ij attention_ij mean_hwc (p_ij(F_i) - F_j)^2

    Args:
      params: {"queries", "keys", "projections": {"<i>_<j>": ...}}, of `semckd`.
      student: S maps [B, H, W, channels].
      teacher: T maps, constant for gradients; the larger of a pair is pooled first.
      temperature: > 0, of the attention.

    Returns:
      [B] losses >= 0.

    References:
      Chen et al., arXiv 2012.03236.
    """
    weights = semckd_attention(params, student, teacher, temperature=temperature)
    total = 0.0
    for i, own in enumerate(student):
        for j, other in enumerate(teacher):
            s, t = adapters.pool_larger(own, other)
            layers, projection = _projection(t.shape[-1]), params["projections"][f"{i}_{j}"]
            error = features.mean_square(adapters.apply(layers, projection, s), t)
            total += weights[:, i, j] * error
    return total / len(student)


def semckd(*, batch_size: int = 64, temperature: float = 1.0) -> Objective:
    """SemCKD over all taps behind the stem; see `semckd_loss`.

    The shape of its parameters depends on the batch, and its value on the order of the batch.

    Args:
      batch_size: B, a multiple of 4: of what `loss` sees at once, so a part where batches are
        accumulated.
      temperature: of the attention.

    Raises:
      InputError: a value out of range; in `loss`, another batch size.
    """
    errors.check_positive(batch_size=batch_size, temperature=temperature)
    if batch_size % _FACTOR:
        raise errors.InputError(f"batch_size is {batch_size}, but must be a multiple of {_FACTOR}")

    def init(key, student, teacher):
        s_key, t_key, key = jax.random.split(key, 3)
        own, others = student.maps[1:], teacher.maps[1:]

        def embeddings(key, taps):
            return {
                f"tap{i}": adapters.init(
                    jax.random.fold_in(key, i), _embedding(batch_size), batch_size
                )
                for i in range(len(taps))
            }

        projections = {
            f"{i}_{j}": adapters.init(
                jax.random.fold_in(key, i * len(others) + j),
                _projection(others[j].shape[-1]),
                own[i].shape[-1],
            )
            for i in range(len(own))
            for j in range(len(others))
        }
        return ObjectiveState(
            params={
                "queries": embeddings(s_key, own),
                "keys": embeddings(t_key, others),
                "projections": projections,
            }
        )

    def loss(state, student, teacher, batch):
        del batch
        if len(student.logits) != batch_size:
            raise errors.InputError(
                f"semckd was made for batches of {batch_size}, not {len(student.logits)}; set its"
                " option batch_size"
            )
        taps = student.maps[1:], teacher.maps[1:]
        return semckd_loss(state.params, *taps, temperature=temperature), state.memory

    return Objective(init, loss)


def _embedding(batch_size: int) -> tuple[Layer, ...]:
    length = batch_size // _FACTOR
    hidden = Layer(2 * length, bias=True, norm=False)
    return hidden, Layer(length, bias=True, norm=False, slope=1.0)


def _projection(channels: int) -> tuple[Layer, ...]:
    wide = 2 * channels
    return Layer(wide), Layer(wide, (3, 3), padding=1), Layer(channels, norm=False, slope=1.0)


def hcl_loss(fused: Maps, teacher: Maps) -> jax.Array:
    """The hierarchical context loss: the mean square of differences, on a pyramid of sizes.

    With D_n the mean square after adaptive average pooling to n x n, and D_H without:

        loss = sum over levels of (D_H + D_4 / 2 + D_2 / 4 + D_1 / 8) / (1 + 1/2 + 1/4 + 1/8)

    in which sizes that are not below H are left out, and the weights go on halving.

    Args:
      fused: [B, H, W, C] of each level, of the student.
      teacher: the same shapes, constant for gradients.

    Returns:
      [B] losses >= 0.

    References:
      Chen et al., arXiv 2104.09044, section 3.3.
    """
    total = 0.0
    for s, t in zip(fused, teacher, strict=True):
        loss, weights = features.mean_square(s, t), 1.0
        sizes = [size for size in (4, 2, 1) if size < s.shape[1]]
        for halvings, size in enumerate(sizes, start=1):
            pooled = (adapters.pool(x, size, size) for x in (s, t))
            loss += 0.5**halvings * features.mean_square(*pooled)
            weights += 0.5**halvings
        total += loss / weights
    return total


def reviewkd_fuse(params: dict, student: Maps, teacher: Maps) -> list[jax.Array]:
    """ReviewKD's attention based fusion: from the last level to the first, what was seen is kept.

        x_i = c1(F_i);  below the last level x_i = a x_i + b up(x_{i+1}),  (a, b) = sigmoid(c(both))
        fused_i = c2(x_i brought to the teacher's size)

    with c1 a 1x1 and c2 a 3x3 convolution with batch norm, c a 1x1 convolution; sizes are changed
    by taking the nearest place.

    Args:
      params: {"level<i>": {"in", "out", "attention"}}, of `reviewkd`.
      student: maps [B, H, W, channels], the first level first.
      teacher: as many, of which only shapes matter.

    Returns:
      maps of the teacher's shapes, the first level first.
    """
    fused, before = [], None
    for i in reversed(range(len(student))):
        own, (height, width, channels) = params[f"level{i}"], teacher[i].shape[1:]
        inside = own["in"]["layer0"]["kernel"].shape[-1]
        x = adapters.apply(_level_in(inside), own["in"], student[i])
        if before is not None:
            before = _nearest(before, *x.shape[1:3])
            both = jnp.concatenate([x, before], axis=-1)
            weights = jax.nn.sigmoid(adapters.apply(_ATTENTION, own["attention"], both))
            x = x * weights[..., :1] + before * weights[..., 1:]
        before = _nearest(x, height, width)
        fused.append(adapters.apply(_level_out(channels), own["out"], before))
    return fused[::-1]


def reviewkd(*, width: int | None = None) -> Objective:
    """ReviewKD: the levels are the taps behind the stem before their last ReLU, and the embedding.

    See `reviewkd_fuse` and `hcl_loss`. The published runs raise its weight linearly over the first
    20 epochs.

    Args:
      width: channels inside; None is the student's embedding length, at most 512.
    """
    if width is not None:
        errors.check_positive(width=width)

    def pairs(student, teacher):
        return adapters.paired(student.preactivations[1:], teacher.preactivations[1:])

    def levels(student, teacher):
        return [list(side) for side in zip(*pairs(student, teacher), strict=True)]

    def init(key, student, teacher):
        own, others = ([x.shape[-1] for x in side] for side in levels(student, teacher))
        own.append(student.embedding.shape[-1])
        others.append(teacher.embedding.shape[-1])
        inside, params = width or min(512, own[-1]), {}
        for i, (s, t) in enumerate(zip(own, others, strict=True)):
            keys = jax.random.split(jax.random.fold_in(key, i), 3)
            params[f"level{i}"] = {  # a gain of sqrt(3) is He's, for no activation
                "in": adapters.init(keys[0], _level_in(inside), s, gain=3**0.5),
                "out": adapters.init(keys[1], _level_out(t), inside, gain=3**0.5),
            }
            if i < len(own) - 1:
                params[f"level{i}"]["attention"] = adapters.init(keys[2], _ATTENTION, 2 * inside)
        return ObjectiveState(params=params)

    def loss(state, student, teacher, batch):
        del batch
        own, others = levels(student, teacher)
        own.append(student.embedding[:, None, None])
        others.append(teacher.embedding[:, None, None])
        return hcl_loss(reviewkd_fuse(state.params, own, others), others), state.memory

    return Objective(init, loss, taps=pairs)


_ATTENTION = (Layer(2, bias=True, norm=False, slope=1.0),)


def _level_in(width: int) -> tuple[Layer, ...]:
    return (Layer(width, slope=1.0),)


def _level_out(channels: int) -> tuple[Layer, ...]:
    return (Layer(channels, (3, 3), padding=1, slope=1.0),)


def _nearest(x: jax.Array, height: int, width: int) -> jax.Array:
    """[B, H, W, C] to [B, height, width, C]: at i what was at floor(i H / height)."""
    rows, columns = (
        np.arange(after) * before // after
        for after, before in zip((height, width), x.shape[1:3], strict=True)
    )
    return x if x.shape[1:3] == (height, width) else x[:, rows][:, :, columns]
