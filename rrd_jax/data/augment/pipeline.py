"""Augmentation in the compiled step: crop and flip, random changes, normalization.

The functions are pure functions of a key, the epoch and the index of an example in its split.
`crops` contains the crops, `mixing` the mixing of images within a batch.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import settings
from rrd_jax.data import normalization
from rrd_jax.data.augment import colours, crops, erasing, policies, second_view
from rrd_jax.data.augment.crops import Crop
from rrd_jax.data.augment.second_view import SecondView
from rrd_jax.data.augment.views import FRESH, Views
from rrd_jax.data.source import HOST_AUGMENTATIONS
from rrd_jax.settings import field, kinds, unless

TEACHERS_VIEWS = ("same", "weak")


def make_normalize(mean: Sequence[float], std: Sequence[float]) -> Callable:
    """Returns uint8 [..., channels] -> float32 (x / 255 - mean) / std, moments in [0, 1] units."""
    normalization.check(mean, std, place="data.")
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)

    def normalize(images: jax.Array) -> jax.Array:
        per_channel = (1,) * (images.ndim - 1) + (-1,)
        centered = images.astype(jnp.float32) / 255 - mean.reshape(per_channel)
        return centered / std.reshape(per_channel)

    return normalize


class Augment(NamedTuple):
    """The augmentation of training images in the compiled step.

    Attributes:
      name: description of all changes; part of the key of caches.
      views: number of views of an image; 0 if views do not repeat, because the host crops the
        images or there are too many views to count.
      choose: (key, epoch [], index [B]) -> view [B] int32 in [0, views); any view if `views` is 0.
        None if the host draws views, see `views.Views`.
      show: (view [B], index [B], images uint8 [B, H, W, channels]) -> normalized float32 images.
      show_teacher: a function like `show` for the teacher's images of a view; None if the teacher
        receives the student's images.
      show_second: (key, epoch [], index [B], images uint8 [B, H, W, channels]) -> normalized
        float32 images, a second view for objectives that compare two views; None for none.
    """

    name: str
    views: int
    choose: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None
    show: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    show_teacher: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None
    show_second: Callable[..., jax.Array] | None = None


_IF_COUNTED = unless("data.policy", "rand", "rand_increasing", "rand_uniform")
_IF_MAGNITUDE = unless("data.policy", "rand", "rand_increasing")


def _without_color(values: settings.Values) -> str:
    return "images have one channel" if len(values["data.mean"]) == 1 else ""


@dataclasses.dataclass(frozen=True)
class Changes:
    """Random changes of training images after the crop.

    The changes are applied in this order, before normalization, except for `erase`, which is
    applied after normalization.

    Attributes:
      policy: rand: RandAugment with torchvision's amounts; rand_increasing: with timm's amounts, as
        in rand-m9-mstd0.5-inc1 with policy_noise 0.5; trivial: TrivialAugment, wide.
      policy_operators: rand, rand_increasing and rand_uniform: number of operators per image.
      policy_magnitude: rand and rand_increasing: magnitude of the operators; at most 30 for rand,
        10 for rand_increasing.
      policy_noise: rand and rand_increasing: standard deviation of the magnitudes.
      jitter: Color jitter: ranges of brightness, contrast, saturation (factors of 1 - range to 1 +
        range) and hue (at most 0.5 turns). SimCLR uses (0.8, 0.8, 0.8, 0.2).
      jitter_probability: Probability of color jitter. SimCLR uses 0.8.
      grey: Probability that an image is converted to grayscale.
      gaussian_blur: Probability of Gaussian blur with a standard deviation of 0.1 to 2 pixels.
      solarize: Probability that the values of an image from 128 on are inverted.
      others: Probabilities of blur and solarization for every second view; () for those of the
        first view. DINO uses (0.1, 0.2), with 1 and 0 for the first view.
      erase: Probability that a random box of 2 to 33 percent of the image is erased after
        normalization. DeiT uses 0.25.
      erase_with: pixels: noise; colour: one random color; mean: the mean of the data.
    """

    policy: str = field("data.policy", "none", kinds.Choice(policies.POLICIES))
    policy_operators: int = field(
        "data.policy_operators", 2, kinds.Integer(1, 16), unused=_IF_COUNTED
    )
    policy_magnitude: float = field(
        "data.policy_magnitude", 9.0, kinds.Real(minimum=0, maximum=30), unused=_IF_MAGNITUDE
    )
    policy_noise: float = field(
        "data.policy_noise", 0.0, kinds.Real(minimum=0, maximum=1e3), unused=_IF_MAGNITUDE
    )
    jitter: tuple[float, ...] = field(
        "data.jitter",
        (0.0, 0.0, 0.0, 0.0),
        kinds.Numbers(kinds.Real(minimum=0, maximum=10), lengths=(4,)),
        unused=unless("data.jitter_probability"),
    )
    jitter_probability: float = field(
        "data.jitter_probability", 1.0, kinds.CHANCE, unused=unless("data.jitter")
    )
    grey: float = field("data.grey", 0.0, kinds.CHANCE, unused=_without_color)
    gaussian_blur: float = field("data.gaussian_blur", 0.0, kinds.CHANCE)
    solarize: float = field("data.solarize", 0.0, kinds.CHANCE)
    others: tuple[float, ...] = field(
        "data.views.others", (), kinds.Numbers(kinds.CHANCE, lengths=(0, 2))
    )
    erase: float = field("data.erase", 0.0, kinds.CHANCE)
    erase_with: str = field(
        "data.erase_with", "pixels", kinds.Choice(erasing.ERASED), unused=unless("data.erase")
    )


def make_augment(
    kind: str,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    pad: int,
    flip: bool,
    area: float = 0.08,
    changes: Changes | None = None,
    views: Views = FRESH,
    teacher: str = "same",
    second: SecondView | None = None,
) -> Augment:
    """Returns the augmentation of training images in the compiled step.

    Args:
      kind: "crop_flip" for a random crop of the image with black padding, "resized_crop" for a
        resized random part of the image; "none", or a kind that the host applies, for no crop.
      mean: mean per channel, in [0, 1] units.
      std: standard deviation per channel, in [0, 1] units.
      pad: black pixels on each side for crop_flip, >= 0.
      flip: whether half of the images are flipped horizontally.
      area: minimum relative area for resized_crop, in (0, 1].
      changes: random changes after the crop; None for normalization only.
      views: the views of an image; without a count, all crops of crop_flip, or new views.
      teacher: a name in TEACHERS_VIEWS; "weak" for views without the changes.
      second: the second view, for objectives that compare two views; None for none.

    Raises:
      InputError: the policy is unknown, or the mean or standard deviation is invalid.
    """
    normalize = make_normalize(mean, std)
    name = f"{kind} of mean {tuple(mean)} and std {tuple(std)}"
    crop = None
    if kind == "crop_flip":
        crop, name = crops.crop_flip(pad, flip), f"{name}, pad {pad}, flip {flip}"
    elif kind == "resized_crop":
        crop, name = crops.resized_crop(area, flip), f"{name}, area {area}, flip {flip}"
    changes = changes or Changes()
    stages = _stages(changes, mean)
    by_host = kind in HOST_AUGMENTATIONS
    if by_host:
        name = f"{name}, area {area}" if views.count else name
    if stages or views.count or (crop and not crop.views):
        name = f"{name}, {changes}" if stages else name
        augment = _seeded(name, crop, stages, normalize, views, weak=teacher == "weak")
    elif crop:
        augment = Augment(
            name=name,
            views=crop.views,
            choose=lambda key, epoch, index: jax.vmap(crop.choose)(_keys(key, epoch, index)),
            show=lambda view, index, images: normalize(crop.cut(view, images)),
        )
    else:
        augment = Augment(
            name=name,
            views=0 if by_host else 1,
            choose=lambda key, epoch, index: jnp.zeros_like(index),
            show=lambda view, index, images: normalize(images),
        )
    if second is None:
        return augment
    show = second_view.make(second, crop, mean)
    return augment._replace(
        show_second=lambda key, epoch, index, images: normalize(
            show(_keys(key, epoch, index), images)
        )
    )


def _keys(key: jax.Array, epoch: jax.Array, index: jax.Array) -> jax.Array:
    """Returns [B] keys of examples in an epoch."""
    epoch_key = jax.random.fold_in(key, epoch)
    return jax.vmap(lambda i: jax.random.fold_in(epoch_key, i))(index)


# (key, image [H, W, channels], whether the view is odd) -> image.
_Stage = Callable[..., jax.Array]


def _stages(changes: Changes, mean: Sequence[float]) -> dict[str, _Stage]:
    """Returns the enabled changes by name, in order."""
    blurs, solarizes = zip(
        (changes.gaussian_blur, changes.solarize),
        changes.others or (changes.gaussian_blur, changes.solarize),
        strict=True,
    )
    stages = {}
    if changes.policy != "none":
        # timm fills with the mean, torchvision with black.
        is_timm = changes.policy == "rand_increasing"
        policy = policies.make_policy(
            changes.policy,
            count=changes.policy_operators,
            magnitude=changes.policy_magnitude,
            noise=changes.policy_noise,
            fill=[min(255, round(255 * part)) for part in mean] if is_timm else 0,
        )
        stages["policy"] = lambda key, image, other: policy.apply(key, image)
    if any(changes.jitter) and changes.jitter_probability:
        colours.check_jitter(changes.jitter)
        stages["jitter"] = lambda key, image, other: colours.jitter(
            key, image, changes.jitter, changes.jitter_probability
        )
    if changes.grey and len(mean) > 1:
        stages["grey"] = lambda key, image, other: colours.random_grey(key, image, changes.grey)
    if any(blurs):
        stages["blur"] = lambda key, image, other: colours.random_blur(
            key, image, _either(blurs, other)
        )
    if any(solarizes):
        stages["solarize"] = lambda key, image, other: colours.random_solarize(
            key, image, _either(solarizes, other)
        )
    if changes.erase:
        stages["erase"] = lambda key, image, other: erasing.random_erase(
            key, image, probability=changes.erase, value=changes.erase_with
        )
    return stages


def _either(chances: Sequence[float], other: jax.Array) -> float | jax.Array:
    """Returns the first probability, or the second probability for odd views."""
    return chances[0] if chances[0] == chances[1] else jnp.where(other, *reversed(chances))


# Numbers that are folded into a view's key, so that changes do not affect each other's keys.
_NUMBERS = {"crop": 0, "policy": 1, "jitter": 2, "grey": 3, "blur": 4, "erase": 5, "solarize": 6}


def _seeded(
    name: str,
    crop: Crop | None,
    stages: dict[str, _Stage],
    normalize: Callable,
    views: Views,
    *,
    weak: bool,
) -> Augment:
    """Returns an augmentation that derives all randomness of a view from a key of the view.

    If `views.count` is 0, the view number is the seed of the key.
    """

    def choose(key, epoch, index):
        bits = jax.vmap(jax.random.bits)(_keys(key, epoch, index))
        return (bits >> 1).astype(jnp.int32)

    def keys_of(view, index):
        if not views.count:
            return jax.vmap(jax.random.key)(view)
        image_keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(views.seed), index)
        return jax.vmap(jax.random.fold_in)(image_keys, view)

    def show(view, index, images, stages=stages):
        keys, other = keys_of(view, index), view % 2 == 1

        def stage_keys(stage):
            return jax.vmap(lambda key: jax.random.fold_in(key, _NUMBERS[stage]))(keys)

        if crop:
            images = crop.cut(jax.vmap(crop.choose)(stage_keys("crop")), images)
        for stage, change in stages.items():
            if stage != "erase":
                images = jax.vmap(change)(stage_keys(stage), images, other)
        images = normalize(images)
        if "erase" not in stages:
            return images
        return jax.vmap(stages["erase"])(stage_keys("erase"), images, other)

    if views.count:
        name, choose = f"{name}, {views}", None
    show_teacher = functools.partial(show, stages={}) if weak and stages else None
    name = f"{name}, the teacher without changes" if show_teacher else name
    return Augment(name, views.count, choose, show, show_teacher)
