"""Mixing of images within a batch: mixup, cutmix, or a random choice of the two."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

MIXES = ("none", "mixup", "cutmix", "mixup+cutmix")
# (key, images [B, H, W, channels], labels [B]) -> mixed images, and the mixing fields of `Batch`.
Mix = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


def make_mix(
    kind: str,
    alpha: float,
    *,
    cutmix_alpha: float = 1.0,
    switch: float = 0.5,
    probability: float = 1.0,
) -> Mix | None:
    """Returns a function that mixes each training image with another image of its batch.

    Image i is mixed with image B - 1 - i. The share of image i is drawn from Beta(alpha, alpha),
    once per batch. Teacher and student receive the same mixed images.

    Args:
      kind: "mixup" to blend the images (arXiv 1710.09412), "cutmix" to paste a box of the second
        image into the first (arXiv 1905.04899), "mixup+cutmix" to choose one of the two per batch,
        as in DeiT (arXiv 2012.12877), or "none".
      alpha: parameter of the Beta distribution, > 0: 1 for uniform shares; smaller values give
        shares near 0 and 1.
      cutmix_alpha: `alpha` of cutmix in "mixup+cutmix", where `alpha` applies to mixup only.
      switch: fraction of batches to which "mixup+cutmix" applies cutmix, in [0, 1].
      probability: probability that a batch is mixed, in [0, 1].

    Returns:
      (key, images [B, H, W, channels], labels [B]) -> mixed images, and the fields `other_label`
      and `share` of the `Batch`; None for "none".
    """
    if kind == "none":
        return None

    def mix(key, images, labels):
        share_key, box_key = jax.random.split(key)
        is_cutmix, is_mixed = kind == "cutmix", True
        if kind == "mixup+cutmix" or probability < 1:
            # Folding in 0 or 1 would return one of the two keys above.
            choice, chance = jax.random.uniform(jax.random.fold_in(key, 2), (2,))
            is_mixed = chance < probability
            is_cutmix = choice < switch if kind == "mixup+cutmix" else is_cutmix
        parameter = jnp.where(is_cutmix, cutmix_alpha, alpha) if kind == "mixup+cutmix" else alpha
        share = jax.random.beta(share_key, parameter, parameter)
        images, share = _mixed(box_key, share, images, is_cutmix=is_cutmix, is_mixed=is_mixed)
        share = jnp.broadcast_to(share, len(images))
        return images, {"other_label": None if labels is None else labels[::-1], "share": share}

    return mix


def _mixed(
    key: jax.Array,
    share: jax.Array,
    images: jax.Array,
    *,
    is_cutmix: jax.Array | bool,
    is_mixed: jax.Array | bool,
) -> tuple[jax.Array, jax.Array]:
    """Returns the mixed images and the share of the first image.

    If `is_cutmix` and `is_mixed` are Python bools, only the needed branch is compiled.
    """
    partners = images[::-1]
    if is_cutmix is False and is_mixed is True:
        return share * images + (1 - share) * partners, share
    inside = _box(key, share, images.shape[1:3])
    if is_cutmix is True and is_mixed is True:
        mixed = jnp.where(inside[None, ..., None], partners, images)
        return mixed, 1 - jnp.mean(inside, dtype=jnp.float32)
    rest = 1 - jnp.mean(inside, dtype=jnp.float32)
    weight = jnp.where(is_cutmix, 1.0 - inside, share)
    weight = jnp.where(is_mixed, weight, 1.0)[None, ..., None]
    share = jnp.where(is_mixed, jnp.where(is_cutmix, rest, share), 1.0)
    return weight * images + (1 - weight) * partners, share


def _box(key: jax.Array, share: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Returns a mask [H, W] bool of a random box with an area of 1 - share of the image."""
    height, width = shape
    inside = jnp.ones((height, width), bool)
    side = jnp.sqrt(1 - share)
    for axis, (size, axis_key) in enumerate(
        zip((height, width), jax.random.split(key), strict=True)
    ):
        # As in the paper, the box may extend beyond the edges of the image, and is clipped there.
        center = jax.random.randint(axis_key, (), 0, size)
        half = jnp.floor(side * size).astype(jnp.int32) // 2
        position = jax.lax.broadcasted_iota(jnp.int32, (height, width), axis)
        inside &= (position >= center - half) & (position < center + half)
    return inside
