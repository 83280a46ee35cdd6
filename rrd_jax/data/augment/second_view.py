"""A second, more strongly changed view of images, for objectives that compare two views."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from rrd_jax.data.augment import erasing, policies
from rrd_jax.data.augment.crops import Crop
from rrd_jax.settings import field, kinds


@dataclasses.dataclass(frozen=True)
class SecondView:
    """The second view of training images, for objectives that compare two views, such as crld.

    The second view has a crop of its own, if the crop is made in the step, then the operators of a
    policy, then a square of the mean color. It is new in each epoch.

    Attributes:
      policy: Operators of the second view of images, for objectives that compare two views:
        rand_uniform: FixMatch's RandAugment with uniform magnitudes, as in crld and mlkd; otherwise
        as data.policy, with two operators of magnitude 9.
      cutout: Largest side of a square that is filled with the mean color in the second view,
        relative to the image's width; the side is uniform from 0.
    """

    policy: str = field("data.second_policy", "rand_uniform", kinds.Choice(policies.POLICIES))
    cutout: float = field("data.second_cutout", 0.5, kinds.CHANCE)


# Folded into the key of an example for its second view.
_SECOND = 2**31 - 5


def make(
    second: SecondView, crop: Crop | None, mean: Sequence[float]
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns (keys [B], images uint8 [B, H, W, channels]) -> second views of the images.

    Args:
      second: the changes.
      crop: the crop in the step; None if the host crops the images, so that both views share it.
      mean: mean per channel, in [0, 1] units; the color of the square.
    """
    stages = []
    if second.policy != "none":
        stages.append(policies.make_policy(second.policy).apply)
    if second.cutout:
        stages.append(
            lambda key, image: erasing.random_cutout(
                key, image, second.cutout, jnp.asarray([round(255 * part) for part in mean])
            )
        )

    def show(keys, images):
        keys = jax.vmap(lambda key: jax.random.fold_in(key, _SECOND))(keys)
        if crop:
            images = crop.cut(jax.vmap(crop.choose)(keys), images)
        for number, change in enumerate(stages, start=1):
            stage_keys = jax.vmap(lambda key, n=number: jax.random.fold_in(key, n))(keys)
            images = jax.vmap(change)(stage_keys, images)
        return images

    return show
