"""Mixup and CutMix within a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax.data.augment import mixing
from rrd_jax.objectives import batch

_LABELS = np.arange(6)
_IMAGES = np.broadcast_to(_LABELS[:, None, None, None], (6, 8, 10, 1)).astype(np.float32)


def _mix(kind, alpha=1.0, seeds=8):
    """Returns mixed images and the batch fields for each of `seeds` keys."""
    mix = mixing.make_mix(kind, alpha)
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    mixed, fields = jax.jit(jax.vmap(mix, (0, None, None)))(keys, _IMAGES, _LABELS)
    assert set(fields) <= set(batch.Batch._fields)
    return np.asarray(mixed), jax.device_get(fields)


def test_mixup_blends_each_image_with_the_image_at_the_opposite_position():
    mixed, fields = _mix("mixup")
    assert fields["share"].shape == (8, 6)
    # All images of a batch use the same share.
    assert not np.ptp(fields["share"], axis=1).any()
    share = fields["share"][:, 0, None, None, None, None]
    assert np.all((share > 0) & (share < 1))
    expected = share * _IMAGES.astype(np.float64) + (1 - share) * _IMAGES[::-1]
    np.testing.assert_allclose(mixed, expected, rtol=1e-6)
    np.testing.assert_array_equal(fields["other_label"], [_LABELS[::-1]] * 8)


def test_cutmix_pastes_one_box_and_the_share_is_the_remaining_area():
    images, fields = _mix("cutmix")
    for mixed, share in zip(images, fields["share"], strict=True):
        pasted = mixed[0, ..., 0] == _IMAGES[-1, 0, 0, 0]
        np.testing.assert_allclose(share, 1 - pasted.mean(), rtol=1e-6)
        rows, columns = pasted.any(1), pasted.any(0)
        np.testing.assert_array_equal(pasted, rows[:, None] & columns[None])
        assert np.isin(mixed[0], (0, 5)).all()


def test_shares_depend_on_alpha_and_the_key():
    shares = _mix("mixup", 0.1, seeds=40)[1]["share"][:, 0]
    assert np.mean((shares < 0.05) | (shares > 0.95)) > 0.5
    assert len(set(shares)) > 35


def test_mixup_and_cutmix_alternate_at_the_configured_rates():
    mix = mixing.make_mix("mixup+cutmix", 0.8, switch=0.25, probability=0.7)
    images, keys = jnp.stack([jnp.zeros((6, 6, 1)), jnp.ones((6, 6, 1))]), jnp.arange(1000)
    keys = jax.vmap(jax.random.key)(keys)
    mixed, fields = jax.jit(jax.vmap(mix, (0, None, None)))(keys, images, jnp.arange(2))
    assert fields["other_label"].tolist() == [[1, 0]] * 1000
    first, second = np.asarray(mixed)[..., 0].swapaxes(0, 1)
    share = np.asarray(fields["share"])[:, 0]
    np.testing.assert_allclose(1 - first.mean((1, 2)), share, atol=1e-6)
    np.testing.assert_allclose(second, 1 - first, atol=1e-6)

    is_mixed = share < 1
    pastes = is_mixed & np.isin(first, (0, 1)).all((1, 2))
    # A box without pixels leaves the image unchanged, which happens in one of ten CutMix batches.
    assert np.mean(is_mixed) == pytest.approx(0.7 - 0.02, abs=0.05)
    assert np.mean(pastes[is_mixed]) == pytest.approx(0.24, abs=0.06)
    blends = share[is_mixed & ~pastes]
    assert np.mean(blends) == pytest.approx(0.5, abs=0.05)
    # The variance of Beta(0.8, 0.8).
    assert np.var(blends) == pytest.approx(1 / 4 / (2 * 0.8 + 1), abs=0.015)
