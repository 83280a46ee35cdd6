"""What the compiled step does to images: crop and flip, change at random, normalise.

Pure functions of a key, the epoch and the place of an example in its split. `images` has what is
done on the host, `mixing` what is done to a batch as a whole.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import convolutions, errors
from rrd_jax.data import colours, erasing, policies
from rrd_jax.data.source import HOST_AUGMENTATIONS, check_augmentation


def make_normalize(mean: Sequence[float], std: Sequence[float]) -> Callable:
    """uint8 [..., channels] to float32 (x / 255 - mean) / std; mean and std in [0, 1] units."""
    errors.check_positive(**{f"data.std[{i}]": value for i, value in enumerate(std)})
    if not np.all(np.isfinite(mean)):
        raise errors.InputError(f"data.mean is {mean}, but must be finite numbers")
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)

    def normalize(images: jax.Array) -> jax.Array:
        per_channel = (1,) * (images.ndim - 1) + (-1,)
        return (images.astype(jnp.float32) / 255 - mean.reshape(per_channel)) / std.reshape(
            per_channel
        )

    return normalize


class Augment(NamedTuple):
    """What the compiled step does to training images: it shows one of their views.

    Attributes:
      name: says all that it does.
      views: how many an image has; 0 where none comes twice: the host has cut it already, or there
        are too many to count.
      choose: (key, epoch [], index [B]) -> [B] int32 in [0, views); of 0 views any, from 0.
      show: (view [B], images uint8 [B, H, W, channels]) -> float32 images, normalised.
    """

    name: str
    views: int
    choose: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    show: Callable[[jax.Array, jax.Array], jax.Array]


class Changes(NamedTuple):
    """What else is done to training images, at random.

    Each comes after the crop, in this order, and none but `erase` after normalisation.

    Attributes:
      policy: a name in `policies.POLICIES`.
      policy_operators: as `policies.make_policy` has its `count`.
      policy_magnitude: likewise.
      policy_noise: likewise.
      jitter: ranges of brightness, contrast, saturation and hue, as `colours.jitter` has them.
      jitter_probability: of colour jitter.
      grey: probability of a grey image.
      gaussian_blur: its probability.
      erase: probability that a box is erased.
      erase_with: a name in `erasing.ERASED`.
    """

    policy: str = "none"
    policy_operators: int = 2
    policy_magnitude: float = 9.0
    policy_noise: float = 0.0
    jitter: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    jitter_probability: float = 1.0
    grey: float = 0.0
    gaussian_blur: float = 0.0
    erase: float = 0.0
    erase_with: str = "pixels"


def make_augment(
    kind: str,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    pad: int,
    flip: bool,
    changes: Changes | None = None,
) -> Augment:
    """What the compiled step does to training images.

    Args:
      kind: "crop_flip" for a random crop of the image padded with black; "none", or a kind that
        the host makes, for none.
      mean: per channel, in [0, 1] units.
      std: per channel, in [0, 1] units.
      pad: pixels of black on each side that the crop may move into.
      flip: whether half of the images are mirrored.
      changes: what else; None for normalisation only.

    Raises:
      InputError: an unknown kind, or a value out of range.
    """
    normalize = make_normalize(mean, std)
    check_augmentation(kind)
    if pad < 0:
        raise errors.InputError(f"data.pad is {pad}, but must be 0 or above")
    name = f"{kind} of mean {tuple(mean)} and std {tuple(std)}"
    crop = None
    if kind == "crop_flip":
        crop, name = _crop_flip(pad, flip), f"{name}, pad {pad}, flip {flip}"
    if stages := _stages(changes or Changes(), mean):
        return _changed(f"{name}, {changes}", crop, stages, normalize)
    if crop:
        return Augment(
            name=name,
            views=crop.views,
            choose=lambda key, epoch, index: jax.vmap(crop.choose)(_keys(key, epoch, index)),
            show=lambda view, images: normalize(crop.cut(view, images)),
        )
    return Augment(
        name=name,
        views=0 if kind in HOST_AUGMENTATIONS else 1,
        choose=lambda key, epoch, index: jnp.zeros_like(index),
        show=lambda view, images: normalize(images),
    )


def _keys(key: jax.Array, epoch: jax.Array, index: jax.Array) -> jax.Array:
    """[B] keys of examples in an epoch."""
    epoch_key = jax.random.fold_in(key, epoch)
    return jax.vmap(lambda i: jax.random.fold_in(epoch_key, i))(index)


class _Crop(NamedTuple):
    """Views of an image, by number: key -> number; numbers [B], images -> images, both uint8."""

    views: int
    choose: Callable[[jax.Array], jax.Array]
    cut: Callable[[jax.Array, jax.Array], jax.Array]


def _crop_flip(pad: int, flip: bool) -> _Crop:
    """A view is (top * places + left) * sides + side, of a crop's corner and whether it mirrors."""
    sides, places = 1 + flip, 2 * pad + 1

    def choose(key):
        crop_key, flip_key = jax.random.split(key)
        top, left = jax.random.randint(crop_key, (2,), 0, places)
        side = jax.random.bernoulli(flip_key) if flip else 0
        return (top * places + left) * sides + side

    def cut_one(top, left, side, padded):
        height, width, channels = padded.shape
        size = height - 2 * pad, width - 2 * pad, channels
        image = jax.lax.dynamic_slice(padded, (top, left, 0), size)
        return jnp.where(side, image[:, ::-1], image) if flip else image

    def cut(view, images):
        place, side = jnp.divmod(view, sides)
        padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        # Else a CPU computes the corner of a crop anew for each pixel.
        seen = convolutions.apart((*jnp.divmod(place, places), side, padded))
        return jax.vmap(cut_one)(*seen)

    return _Crop(places**2 * sides, choose, cut)


# (key, image [H, W, channels]) -> image.
_Stage = Callable[[jax.Array, jax.Array], jax.Array]


def _stages(changes: Changes, mean: Sequence[float]) -> dict[str, _Stage]:
    """The changes that there are, by name and in order.

    Raises:
      InputError: an unknown name, or a value out of range.
    """
    chances = ("jitter_probability", "grey", "gaussian_blur", "erase")
    for name in chances:
        if not 0 <= getattr(changes, name) <= 1:
            raise errors.InputError(
                f"data.{name} is {getattr(changes, name)}, but must be a probability, in [0, 1]"
            )
    stages = {}
    errors.lookup("policy", changes.policy, dict.fromkeys(policies.POLICIES))
    if changes.policy != "none":
        # timm fills with the mean, torchvision with black.
        is_timm = changes.policy == "rand_increasing"
        stages["policy"] = policies.make_policy(
            changes.policy,
            count=changes.policy_operators,
            magnitude=changes.policy_magnitude,
            noise=changes.policy_noise,
            fill=[min(255, round(255 * part)) for part in mean] if is_timm else 0,
        ).apply
    if any(changes.jitter) and changes.jitter_probability:
        colours.check_jitter(changes.jitter)
        stages["jitter"] = functools.partial(
            colours.jitter, ranges=changes.jitter, probability=changes.jitter_probability
        )
    if changes.grey and len(mean) > 1:
        stages["grey"] = functools.partial(colours.random_grey, probability=changes.grey)
    if changes.gaussian_blur:
        stages["blur"] = functools.partial(colours.random_blur, probability=changes.gaussian_blur)
    if changes.erase:
        errors.lookup("data.erase_with", changes.erase_with, dict.fromkeys(erasing.ERASED))
        stages["erase"] = functools.partial(
            erasing.random_erase, probability=changes.erase, value=changes.erase_with
        )
    return stages


# What is folded into a view's key: adding one change leaves the others as they are.
_NUMBERS = {"crop": 0, "policy": 1, "jitter": 2, "grey": 3, "blur": 4, "erase": 5}


def _changed(
    name: str, crop: _Crop | None, stages: dict[str, _Stage], normalize: Callable
) -> Augment:
    """Views too many to count: each is the seed of all that is random in it."""

    def choose(key, epoch, index):
        bits = jax.vmap(jax.random.bits)(_keys(key, epoch, index))
        return (bits >> 1).astype(jnp.int32)

    def show(view, images):
        keys = jax.vmap(jax.random.key)(view)

        def of(stage):
            return jax.vmap(lambda key: jax.random.fold_in(key, _NUMBERS[stage]))(keys)

        if crop:
            images = crop.cut(jax.vmap(crop.choose)(of("crop")), images)
        for stage, change in stages.items():
            if stage != "erase":
                images = jax.vmap(change)(of(stage), images)
        images = normalize(images)
        return jax.vmap(stages["erase"])(of("erase"), images) if "erase" in stages else images

    return Augment(name, 0, choose, show)
