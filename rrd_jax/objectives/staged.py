"""Objectives with a stage before distillation: AB and FSP prepare the student, FT a paraphraser."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives import adapters, features
from rrd_jax.objectives.adapters import Layer
from rrd_jax.objectives.base import Objective, ObjectiveState, Stage
from rrd_jax.objectives.features import Maps


def ab_loss(connected: Maps, teacher: Maps, *, margin: float = 1.0) -> jax.Array:
    """Activation boundaries: the student's neurons are to be on the same side as the teacher's.

        e = (s + m)^2 where t <= 0 and s > -m,  (s - m)^2 where t > 0 and s <= m,  else 0
        loss = 3/1000 sum over taps i < n of 2^(i - n + 1) sum_hwc e

    Args:
      connected: [B, H, W, C] s, the student's maps before their last ReLU in the teacher's shape.
      teacher: the same shapes t, before the last ReLU, constant for gradients.
      margin: m > 0.

    Returns:
      [B] losses >= 0; those of equal maps are not 0.

    References:
      Heo et al., arXiv 1811.03233.
    """
    errors.check_positive(margin=margin)
    total = 0.0
    for i, (s, t) in enumerate(zip(connected, teacher, strict=True)):
        s, active = s.astype(jnp.float32), jax.lax.stop_gradient(t) > 0
        low = jnp.where(~active & (s > -margin), s + margin, 0.0)
        high = jnp.where(active & (s <= margin), s - margin, 0.0)
        excess = jnp.sum(jnp.square(low) + jnp.square(high), axis=(1, 2, 3))
        total += 2.0 ** (i - len(teacher) + 1) * excess
    return 3 / 1000 * total


def ab(*, margin: float = 1.0, epochs: int = 30, learning_rate: float | None = None) -> Objective:
    """AB over all taps behind the stem: its loss is the stage's, and afterwards 0.

    Where shapes differ a convolution with batch norm connects the student's map; see `ab_loss`.

    Args:
      margin: m > 0.
      epochs: of the stage.
      learning_rate: of the stage; None is the run's.

    Raises:
      InputError: a value out of range; in `init`, maps that cannot be brought to the teacher's.
    """
    errors.check_positive(margin=margin)

    def pairs(student, teacher):
        return adapters.paired(student.preactivations[1:], teacher.preactivations[1:])

    def connector(student, teacher):
        if student.shape[1:] == teacher.shape[1:]:
            return ()
        return adapters.regressor(student.shape, teacher.shape, slope=1.0)

    def init(key, student, teacher):
        frozen = {
            f"tap{i}": adapters.init(
                jax.random.fold_in(key, i), connector(*pair), pair[0].shape[-1]
            )
            for i, pair in enumerate(pairs(student, teacher))
        }
        return ObjectiveState(frozen=frozen)

    def stage_loss(state, student, teacher, batch):
        del batch
        connected, targets = [], []
        for i, (s, t) in enumerate(pairs(student, teacher)):
            s = adapters.apply(connector(s, t), state.frozen[f"tap{i}"], s)
            targets.append(adapters.pool(t, *s.shape[1:3]))
            connected.append(s)
        return ab_loss(connected, targets, margin=margin), state.memory

    return _only_before(init, pairs, stage_loss, epochs, learning_rate)


def fsp_loss(student: Maps, teacher: Maps) -> jax.Array:
    """The flow of solution procedure: products of consecutive taps, channel by channel.

        G_i[c, d] = mean_hw F_{i+1}[h, w, c] F_i[h, w, d]
        loss = sum over i of mean_cd (G_i(student) - G_i(teacher))^2

    Args:
      student: two or more maps [B, H, W, channels]; the larger of two neighbours is pooled.
      teacher: as many, with the same channels, constant for gradients.

    Returns:
      [B] losses >= 0.

    Raises:
      InputError: channels differ.

    References:
      Yim et al., CVPR 2017.
    """
    channels = [[x.shape[-1] for x in maps] for maps in (student, teacher)]
    if len(student) < 2 or channels[0] != channels[1]:
        raise errors.InputError(
            f"fsp needs two or more maps of the same channels on both sides, not {channels[0]}"
            f" of the student and {channels[1]} of the teacher"
        )

    def flows(maps):
        for bottom, top in itertools.pairwise(maps):
            bottom, top = adapters.pool_larger(bottom, top)
            product = jnp.einsum("bhwc,bhwd->bcd", top, bottom, precision="highest")
            yield product / (top.shape[1] * top.shape[2])

    both = zip(flows(student), flows(teacher), strict=True)
    return sum(features.mean_square(s, t) for s, t in both)


def fsp(*, epochs: int = 30, learning_rate: float | None = None) -> Objective:
    """FSP over all taps, the stem's too: its loss is the stage's, and afterwards 0.

    The networks must have the same channels; see `fsp_loss`.

    Args:
      epochs: of the stage.
      learning_rate: of the stage; None is the run's.
    """

    def pairs(student, teacher):
        return adapters.paired(student.maps, teacher.maps, equal_channels=True)

    def init(key, student, teacher):
        del key
        pairs(student, teacher)  # or an error
        return ObjectiveState()

    def stage_loss(state, student, teacher, batch):
        del batch
        return fsp_loss(*zip(*pairs(student, teacher), strict=True)), state.memory

    return _only_before(init, pairs, stage_loss, epochs, learning_rate)


def ft_loss(student: jax.Array, teacher: jax.Array, *, order: int = 1) -> jax.Array:
    """Factor transfer: where a translated map and a paraphrased one are strong.

        loss = mean_hw |a(student) - a(teacher)|^order,  a(F) = unit(mean_c F_c^2)

    Args:
      student: [B, H, W, channels] factor, of the translator.
      teacher: [B, H', W', channels'] factor, of the paraphraser, constant for gradients; the
        larger of the two is pooled first.
      order: 1 or 2.

    Returns:
      [B] losses >= 0.

    Raises:
      InputError: another order.

    References:
      Kim et al., arXiv 1802.04977, which compares the factors themselves; this is the benchmark's.
    """
    _check_order(order)
    s, t = (features.attention(x) for x in adapters.pool_larger(student, teacher))
    distance = jnp.abs(s - jax.lax.stop_gradient(t))
    return jnp.mean(distance**order, axis=-1)


def paraphrase(params: dict[str, Any], teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
    """FT's paraphraser: an auto-encoder of the teacher's map.

    Args:
      params: {"encoder": ..., "decoder": ...}, of `ft`.
      teacher: [B, H, W, C].

    Returns:
      the factor [B, H, W, channels], and the map made from it, [B, H, W, C].
    """
    encoder, decoder = params["encoder"], params["decoder"]
    narrow, wide = encoder["layer2"]["kernel"].shape[-1], teacher.shape[-1]
    factor = adapters.apply(_encoder(wide, narrow, norm=False), encoder, teacher)
    return factor, adapters.apply(_decoder(wide, narrow), decoder, factor)


def ft(
    *,
    rate: float = 0.5,
    order: int = 1,
    epochs: int = 30,
    learning_rate: float | None = 0.01,
) -> Objective:
    """Factor transfer of the last maps; see `ft_loss`.

    The stage trains the paraphraser to reproduce the teacher's map; then it is constant, and the
    translator, three 3x3 convolutions with batch norm, is trained with the student.

    Args:
      rate: in (0, 1], channels of a factor over those of the teacher's map.
      order: 1 or 2.
      epochs: of the stage.
      learning_rate: of the stage; None is the run's.

    Raises:
      InputError: a value out of range.
    """
    _check_order(order)
    errors.check_positive(rate=rate)
    if rate > 1:
        raise errors.InputError(f"rate is {rate}, but must be in (0, 1]")

    def narrow(teacher):
        return max(1, int(teacher.maps[-1].shape[-1] * rate))

    def init(key, student, teacher):
        keys = jax.random.split(key, 3)
        inside, own, wide = (
            narrow(teacher),
            student.maps[-1].shape[-1],
            teacher.maps[-1].shape[-1],
        )
        return ObjectiveState(
            params=adapters.init(keys[0], _encoder(own, inside, norm=True), own),
            frozen={
                "encoder": adapters.init(keys[1], _encoder(wide, inside, norm=False), wide),
                "decoder": adapters.init(keys[2], _decoder(wide, inside), inside),
            },
        )

    def stage_loss(state, student, teacher, batch):
        del student, batch
        target = jax.lax.stop_gradient(teacher.maps[-1])
        _, made = paraphrase(state.frozen, target)
        return features.mean_square(made, target), state.memory

    def loss(state, student, teacher, batch):
        del batch
        x = student.maps[-1]
        translated = adapters.apply(
            _encoder(x.shape[-1], narrow(teacher), norm=True), state.params, x
        )
        factor, _ = paraphrase(state.frozen, teacher.maps[-1])
        return ft_loss(translated, factor, order=order), state.memory

    return Objective(init, loss, stage=_stage(stage_loss, False, epochs, learning_rate))


def _encoder(wide: int, narrow: int, *, norm: bool) -> tuple[Layer, ...]:
    layer = Layer(narrow, (3, 3), padding=1, bias=True, norm=norm, slope=0.1)
    return layer._replace(features=wide), layer, layer


def _decoder(wide: int, narrow: int) -> tuple[Layer, ...]:
    layer = Layer(narrow, (3, 3), padding=1, transposed=True, bias=True, norm=False, slope=0.1)
    return layer, layer._replace(features=wide), layer._replace(features=wide)


def _only_before(
    init: Callable,
    pairs: Callable,
    stage_loss: Callable,
    epochs: int,
    learning_rate: float | None,
) -> Objective:
    """An objective that trains the student in its stage, and has a loss of 0 afterwards."""

    def nothing(state, student, teacher, batch):
        del teacher, batch
        return jnp.zeros(len(student.logits)), state.memory

    stage = _stage(stage_loss, True, epochs, learning_rate)
    return Objective(init, nothing, stage=stage, taps=pairs)


def _stage(loss: Callable, student: bool, epochs: int, learning_rate: float | None) -> Stage:
    errors.check_positive(epochs=epochs)
    if learning_rate is not None:
        errors.check_positive(learning_rate=learning_rate)
    return Stage(loss, student, epochs, learning_rate)


def _check_order(order: int) -> None:
    if order not in (1, 2):
        raise errors.InputError(f"order is {order}, but must be 1 or 2")
