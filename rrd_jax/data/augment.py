"""Image transforms. Each is a pure function of (key, epoch, example index), on device or host."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import errors

# What stretches or cuts images on the host, before they are sent to the device as uint8.
HOST = ("random_resized",)
DEVICE = ("none", "crop_flip")


def make_normalize(mean: Sequence[float], std: Sequence[float]) -> Callable:
    """uint8 [..., channels] to float32 (x / 255 - mean) / std; mean and std in [0, 1] units."""
    errors.check_positive(**{f"data.std[{i}]": value for i, value in enumerate(std)})
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)

    def normalize(images: jax.Array) -> jax.Array:
        return (images.astype(jnp.float32) / 255 - mean) / std

    return normalize


Mix = Callable


class Augment(NamedTuple):
    """What the compiled step does to training images: it shows one of their views.

    Attributes:
      name: says all that it does.
      views: how many an image has; 0 where the host has cut it already, so that none comes twice.
      choose: (key, epoch [], index [B]) -> [B] int32 in [0, views).
      show: (view [B], images uint8 [B, H, W, channels]) -> float32 images, normalised.
    """

    name: str
    views: int
    choose: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    show: Callable[[jax.Array, jax.Array], jax.Array]


def make_augment(
    kind: str, *, mean: Sequence[float], std: Sequence[float], pad: int, flip: bool
) -> Augment:
    """What the compiled step does to training images.

    Args:
      kind: "crop_flip" for a random crop of the image padded with black; "none", or a kind in
        HOST, for normalisation only.
      mean: per channel, in [0, 1] units.
      std: per channel, in [0, 1] units.
      pad: pixels of black on each side that the crop may move into.
      flip: whether half of the images are mirrored.

    Raises:
      InputError: an unknown kind, or a value out of range.
    """
    normalize = make_normalize(mean, std)
    known = dict.fromkeys(DEVICE + HOST)
    errors.lookup("augmentation", kind, known)
    if pad < 0:
        raise errors.InputError(f"data.pad is {pad}, but must be 0 or above")
    name = f"{kind} of mean {tuple(mean)} and std {tuple(std)}"
    if kind != "crop_flip":
        return Augment(
            name=name,
            views=0 if kind in HOST else 1,
            choose=lambda key, epoch, index: jnp.zeros_like(index),
            show=lambda view, images: normalize(images),
        )
    sides = 1 + flip
    places = 2 * pad + 1

    def choose(key, epoch, index):
        epoch_key = jax.random.fold_in(key, epoch)
        keys = jax.vmap(lambda i: jax.random.fold_in(epoch_key, i))(index)

        def one(key):
            crop_key, flip_key = jax.random.split(key)
            top, left = jax.random.randint(crop_key, (2,), 0, places)
            side = jax.random.bernoulli(flip_key) if flip else 0
            return (top * places + left) * sides + side

        return jax.vmap(one)(keys)

    def show(view, images):
        def one(view, image):
            place, side = jnp.divmod(view, sides)
            padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)))
            top, left = jnp.divmod(place, places)
            image = jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)
            return jnp.where(side, image[:, ::-1], image) if flip else image

        return normalize(jax.vmap(one)(view, images))

    return Augment(f"{name}, pad {pad}, flip {flip}", places**2 * sides, choose, show)


def make_mix(kind: str, alpha: float) -> Callable | None:
    """Mixing of each training image with another one of its batch, on the device.

    Image i meets image B - 1 - i. The share of the first is drawn from Beta(alpha, alpha), once a
    batch. Teacher and student both see the mixed images.

    Args:
      kind: "mixup" to blend the images (arXiv 1710.09412), "cutmix" to paste a box of the other
        one (arXiv 1905.04899), "none".
      alpha: > 0; 1 draws all shares alike, smaller values leave most images nearly whole.

    Returns:
      None for "none", else (key, images [B, H, W, channels], labels [B]) -> mixed images, and what
      the batch knows of them: `other_label` [B], and `share` [B], that of `label`, in [0, 1].

    Raises:
      InputError: an unknown kind, or an alpha out of range.
    """
    errors.check_positive(**{"data.mix_alpha": alpha})
    blend = errors.lookup("mix", kind, {"none": None, "mixup": _mixup, "cutmix": _cutmix})
    if blend is None:
        return None

    def mix(key, images, labels):
        share_key, place_key = jax.random.split(key)
        share = jax.random.beta(share_key, alpha, alpha)
        images, share = blend(place_key, share, images, images[::-1])
        share = jnp.broadcast_to(share, labels.shape)
        return images, {"other_label": labels[::-1], "share": share}

    return mix


def _mixup(key: jax.Array, share: jax.Array, images: jax.Array, others: jax.Array) -> tuple:
    del key
    return share * images + (1 - share) * others, share


def _cutmix(key: jax.Array, share: jax.Array, images: jax.Array, others: jax.Array) -> tuple:
    height, width = images.shape[1:3]
    inside = jnp.ones((height, width), bool)
    side = jnp.sqrt(1 - share)
    for axis, (size, axis_key) in enumerate(
        zip((height, width), jax.random.split(key), strict=True)
    ):
        # The box may reach over the edge, as in the paper; what is left of it counts.
        centre = jax.random.randint(axis_key, (), 0, size)
        half = jnp.floor(side * size).astype(jnp.int32) // 2
        place = jax.lax.broadcasted_iota(jnp.int32, (height, width), axis)
        inside &= (place >= centre - half) & (place < centre + half)
    mixed = jnp.where(inside[..., None], others, images)
    return mixed, 1 - jnp.mean(inside, dtype=jnp.float32)


def random_resized_crop(rng: np.random.Generator, image: np.ndarray, size: int) -> np.ndarray:
    """A random part of 8 to 100 % of the area, aspect 3/4 to 4/3, scaled to [size, size].

    Ten tries, then the largest central part of allowed aspect, as the ImageNet recipes do. Half
    of the results are mirrored.
    """
    height, width = image.shape[:2]
    top, left, h, w = _random_part(rng, height, width)
    part = image[top : top + h, left : left + w]
    # Area averaging costs four times as much; for training it is needed where pixels are skipped.
    scaled = _scale(part, size, size, averaged=2 * size <= min(part.shape[:2]))
    if rng.random() >= 0.5:
        return scaled
    # A contiguous mirror image: stacking views of negative stride costs ten times as much.
    return cv2.flip(scaled, 1).reshape(scaled.shape)


def center_crop(image: np.ndarray, size: int, resize: int) -> np.ndarray:
    """Scaled so that the short side is `resize`, then the central [size, size]."""
    height, width = image.shape[:2]
    factor = resize / min(height, width)
    scaled = _scale(image, round(height * factor), round(width * factor))
    top, left = (scaled.shape[0] - size) // 2, (scaled.shape[1] - size) // 2
    return scaled[top : top + size, left : left + size]


def fit(image: np.ndarray, size: int) -> np.ndarray:
    """To [size, size]: smaller images are centred on black, larger ones scaled down."""
    height, width = image.shape[:2]
    if height > size or width > size:
        return _scale(image, size, size)
    top, left = (size - height) // 2, (size - width) // 2
    fitted = np.zeros((size, size, image.shape[2]), image.dtype)
    fitted[top : top + height, left : left + width] = image
    return fitted


def _random_part(rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = height * width * rng.uniform(0.08, 1.0)
        aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < h <= height and 0 < w <= width:
            return rng.integers(height - h + 1), rng.integers(width - w + 1), h, w
    h, w = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def _scale(image: np.ndarray, height: int, width: int, averaged: bool | None = None) -> np.ndarray:
    if averaged is None:  # where the image shrinks, or the result would alias
        averaged = height < image.shape[0] or width < image.shape[1]
    method = cv2.INTER_AREA if averaged else cv2.INTER_LINEAR
    scaled = cv2.resize(image, (width, height), interpolation=method)
    return scaled.reshape(height, width, image.shape[2])  # cv2 drops a single channel
