"""Images mixed with others of their batch: mixup, cutmix, or now one and now the other."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

MIXES = ("none", "mixup", "cutmix", "mixup+cutmix")
# (key, images [B, H, W, channels], labels [B]) -> mixed images, and `Batch` fields that say how.
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

    Image i is mixed with image B - 1 - i. The share of the first is drawn from Beta(alpha, alpha),
    once a batch. Teacher and student both get the mixed images.

    Args:
      kind: "mixup" to blend the images (arXiv 1710.09412), "cutmix" to paste a box of the second
        into the first (arXiv 1905.04899), "mixup+cutmix" to draw for each batch which of the two,
        as DeiT does (arXiv 2012.12877), "none".
      alpha: > 0; 1 draws all shares alike, smaller values leave most images nearly whole.
      cutmix_alpha: of cutmix in "mixup+cutmix", whose mixup has `alpha`.
      switch: part of the batches that "mixup+cutmix" pastes, in [0, 1].
      probability: that a batch is mixed at all, in [0, 1].

    Returns:
      None for "none", else (key, images [B, H, W, channels], labels [B]) -> mixed images, and the
      fields `other_label` and `share` of their `Batch`.
    """
    if kind == "none":
        return None

    def mix(key, images, labels):
        share_key, place_key = jax.random.split(key)
        pastes, mixes = kind == "cutmix", True
        if kind == "mixup+cutmix" or probability < 1:
            which, whether = jax.random.uniform(jax.random.fold_in(key, 1), (2,))
            mixes = whether < probability
            pastes = which < switch if kind == "mixup+cutmix" else pastes
        both = jnp.where(pastes, cutmix_alpha, alpha) if kind == "mixup+cutmix" else alpha
        share = jax.random.beta(share_key, both, both)
        images, share = _mixed(place_key, share, images, pastes=pastes, mixes=mixes)
        share = jnp.broadcast_to(share, len(images))
        return images, {"other_label": None if labels is None else labels[::-1], "share": share}

    return mix


def _mixed(
    key: jax.Array,
    share: jax.Array,
    images: jax.Array,
    *,
    pastes: jax.Array | bool,
    mixes: jax.Array | bool,
) -> tuple[jax.Array, jax.Array]:
    """Mixed images, and the share of their first one.

    What is known before the program runs is a bool: nothing else is then computed.
    """
    partners = images[::-1]
    if pastes is False and mixes is True:
        return share * images + (1 - share) * partners, share
    inside = _box(key, share, images.shape[1:3])
    if pastes is True and mixes is True:
        mixed = jnp.where(inside[None, ..., None], partners, images)
        return mixed, 1 - jnp.mean(inside, dtype=jnp.float32)
    rest = 1 - jnp.mean(inside, dtype=jnp.float32)
    weight = jnp.where(pastes, 1.0 - inside, share)
    weight = jnp.where(mixes, weight, 1.0)[None, ..., None]
    share = jnp.where(mixes, jnp.where(pastes, rest, share), 1.0)
    return weight * images + (1 - weight) * partners, share


def _box(key: jax.Array, share: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """[H, W] bool: a box of a random place, whose area leaves a share of the image."""
    height, width = shape
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
    return inside
