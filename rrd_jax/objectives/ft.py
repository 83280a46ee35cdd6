"""FT: factor transfer (arXiv 1802.04977)."""

from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.parts import adapters
from rrd_jax.objectives.parts.adapters import Layer
from rrd_jax.objectives.parts.arithmetic import mean_square
from rrd_jax.objectives.parts.maps import strength
from rrd_jax.objectives.parts.pooling import pool_larger
from rrd_jax.objectives.parts.stages import stage


def ft_loss(student: jax.Array, teacher: jax.Array, *, order: int = 1) -> jax.Array:
    """Computes factor transfer: the distance of the factors' spatial attention.

        loss = mean_hw |a(student) - a(teacher)|^order,  a(F) = unit(mean_c F_c^2)

    The paper compares the factors themselves; this is the benchmark's form.

    Args:
      student: [B, H, W, channels], factor of the translator.
      teacher: [B, H', W', channels'], factor of the paraphraser, constant for gradients; the larger
        of the two factors is pooled first.
      order: exponent of the distance, 1 or 2.

    Returns:
      [B] losses >= 0.

    Raises:
      InputError: the order is neither 1 nor 2.

    References:
      Kim et al., arXiv 1802.04977.
    """
    _check_order(order)
    s, t = (strength(x) for x in pool_larger(student, teacher))
    distance = jnp.abs(s - jax.lax.stop_gradient(t))
    return jnp.mean(distance**order, axis=-1)


def paraphrase(params: dict[str, Any], teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Applies FT's paraphraser, an auto-encoder of the teacher's map.

    Args:
      params: {"encoder": ..., "decoder": ...}, from the state of `ft`.
      teacher: [B, H, W, C].

    Returns:
      (the factor [B, H, W, channels], the reconstructed map [B, H, W, C]).
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
    """Builds factor transfer of the last maps; see `ft_loss`.

    The stage trains the paraphraser to reconstruct the teacher's map. Afterwards the paraphraser is
    constant, and the translator, three 3x3 convolutions with batch norm, is trained with the
    student.

    Args:
      rate: ratio of a factor's channels to the channels of the teacher's map, in (0, 1].
      order: exponent of the distance, 1 or 2.
      epochs: number of epochs of the stage.
      learning_rate: learning rate of the stage; None for the run's. Published: 0.01 for ResNet and
        WRN students, the run's otherwise.

    Raises:
      InputError: a value is out of range.
    """
    _check_order(order)
    errors.check_positive(rate=rate)
    if rate > 1:
        raise errors.InputError(f"rate is {rate}, but must be in (0, 1]")

    def narrow(teacher):
        return max(1, int(teacher.maps[-1].shape[-1] * rate))

    def init(key, student, teacher):
        translator_key, encoder_key, decoder_key = jax.random.split(key, 3)
        inside = narrow(teacher)
        wide_s, wide_t = (outputs.maps[-1].shape[-1] for outputs in (student, teacher))
        translator = _encoder(wide_s, inside, norm=True)
        encoder, decoder = _encoder(wide_t, inside, norm=False), _decoder(wide_t, inside)
        return ObjectiveState(
            params=adapters.init(translator_key, translator, wide_s),
            frozen={
                "encoder": adapters.init(encoder_key, encoder, wide_t),
                "decoder": adapters.init(decoder_key, decoder, inside),
            },
        )

    def stage_loss(state, student, teacher, batch):
        del student, batch
        target = jax.lax.stop_gradient(teacher.maps[-1])
        _, reproduced = paraphrase(state.frozen, target)
        return mean_square(reproduced, target), state.memory

    def loss(state, student, teacher, batch):
        del batch
        x = student.maps[-1]
        translator = _encoder(x.shape[-1], narrow(teacher), norm=True)
        translated = adapters.apply(translator, state.params, x)
        factor, _ = paraphrase(state.frozen, teacher.maps[-1])
        return ft_loss(translated, factor, order=order), state.memory

    before = stage(stage_loss, student=False, epochs=epochs, learning_rate=learning_rate)
    return Objective(init, loss, stage=before)


def _encoder(wide: int, narrow: int, *, norm: bool) -> tuple[Layer, ...]:
    layer = Layer(narrow, (3, 3), padding=1, bias=True, norm=norm, slope=0.1)
    return layer._replace(features=wide), layer, layer


def _decoder(wide: int, narrow: int) -> tuple[Layer, ...]:
    layer = Layer(narrow, (3, 3), padding=1, transposed=True, bias=True, norm=False, slope=0.1)
    return layer, layer._replace(features=wide), layer._replace(features=wide)


def _check_order(order: int) -> None:
    if order not in (1, 2):
        raise errors.InputError(f"order is {order}, but must be 1 or 2")


RECORD = Record(
    ft,
    "spatial attention of factors of the last map",
    "arXiv 1802.04977",
    weight=200.0,
    needs_classes=False,
)
