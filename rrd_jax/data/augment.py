"""What the compiled step does to images: normalise, crop and flip, mix.

Pure functions of a key, the epoch and the place of an example in its split. `images` has what is
done on the host.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import convolutions, errors
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


# (key, images [B, H, W, channels], labels [B]) -> mixed images, and `Batch` fields that say how.
Mix = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


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
      kind: "crop_flip" for a random crop of the image padded with black; "none", or a kind that
        the host makes, for normalisation only.
      mean: per channel, in [0, 1] units.
      std: per channel, in [0, 1] units.
      pad: pixels of black on each side that the crop may move into.
      flip: whether half of the images are mirrored.

    Raises:
      InputError: an unknown kind, or a value out of range.
    """
    normalize = make_normalize(mean, std)
    check_augmentation(kind)
    if pad < 0:
        raise errors.InputError(f"data.pad is {pad}, but must be 0 or above")
    name = f"{kind} of mean {tuple(mean)} and std {tuple(std)}"
    if kind == "crop_flip":
        return _crop_flip(f"{name}, pad {pad}, flip {flip}", normalize, pad, flip)
    return Augment(
        name=name,
        views=0 if kind in HOST_AUGMENTATIONS else 1,
        choose=lambda key, epoch, index: jnp.zeros_like(index),
        show=lambda view, images: normalize(images),
    )


def _crop_flip(name: str, normalize: Callable, pad: int, flip: bool) -> Augment:
    """A view is (top * places + left) * sides + side, of a crop's corner and whether it mirrors."""
    sides, places = 1 + flip, 2 * pad + 1

    def choose_view(key):
        crop_key, flip_key = jax.random.split(key)
        top, left = jax.random.randint(crop_key, (2,), 0, places)
        side = jax.random.bernoulli(flip_key) if flip else 0
        return (top * places + left) * sides + side

    def show_view(top, left, side, padded):
        height, width, channels = padded.shape
        size = height - 2 * pad, width - 2 * pad, channels
        image = jax.lax.dynamic_slice(padded, (top, left, 0), size)
        return jnp.where(side, image[:, ::-1], image) if flip else image

    def choose(key, epoch, index):
        epoch_key = jax.random.fold_in(key, epoch)
        keys = jax.vmap(lambda i: jax.random.fold_in(epoch_key, i))(index)
        return jax.vmap(choose_view)(keys)

    def show(view, images):
        place, side = jnp.divmod(view, sides)
        padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        # Else a CPU computes the corner of a crop anew for each pixel.
        seen = convolutions.apart((*jnp.divmod(place, places), side, padded))
        return normalize(jax.vmap(show_view)(*seen))

    return Augment(name, places**2 * sides, choose, show)


def make_mix(kind: str, alpha: float) -> Callable | None:
    """Mixes each training image with another image of its batch.

    Image i meets image B - 1 - i. The share of the first is drawn from Beta(alpha, alpha), once a
    batch. Teacher and student both see the mixed images.

    Args:
      kind: "mixup" to blend the images (arXiv 1710.09412), "cutmix" to paste a box of the second
        into the first (arXiv 1905.04899), "none".
      alpha: > 0; 1 draws all shares alike, smaller values leave most images nearly whole.

    Returns:
      None for "none", else (key, images [B, H, W, channels], labels [B]) -> mixed images, and the
      fields `other_label` and `share` of their `Batch`.

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


def _mixup(key: jax.Array, share: jax.Array, images: jax.Array, partners: jax.Array) -> tuple:
    del key
    return share * images + (1 - share) * partners, share


def _cutmix(key: jax.Array, share: jax.Array, images: jax.Array, partners: jax.Array) -> tuple:
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
    mixed = jnp.where(inside[None, ..., None], partners, images)
    return mixed, 1 - jnp.mean(inside, dtype=jnp.float32)
