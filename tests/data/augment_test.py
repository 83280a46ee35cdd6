import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax.data.augment import mixing, pipeline
from rrd_jax.objectives import batch

_PLAIN = {"mean": (0.0,), "std": (1 / 255,), "pad": 2, "flip": True}


def _crops(epoch=0, index=None, images=None, **options):
    images = np.arange(1, 50, dtype=np.uint8).reshape(1, 7, 7, 1).repeat(64, 0)
    index = np.arange(64) if index is None else index
    crop = pipeline.make_augment("crop_flip", **(_PLAIN | options))
    view = crop.choose(jax.random.key(0), jnp.int32(epoch), jnp.asarray(index))
    assert crop.views == 25 * (1 + options.get("flip", True)) or "pad" in options
    return np.asarray(crop.show(view, index, images))


def _all_views(image, pad):
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            view = padded[top : top + len(image), left : left + len(image)]
            yield view.tobytes()
            yield view[:, ::-1].tobytes()


def test_crop_flip_gives_views_of_the_padded_image_and_all_kinds_of_them():
    crops = np.round(_crops()).astype(np.uint8)
    views = set(_all_views(np.arange(1, 50, dtype=np.uint8).reshape(7, 7, 1), 2))
    assert len(views) == 50
    found = {crop.tobytes() for crop in crops}
    assert found <= views
    assert len(found) > 25


def test_a_crop_depends_on_epoch_and_example_alone_not_on_its_place_in_the_batch():
    order = np.random.default_rng(0).permutation(64)
    np.testing.assert_array_equal(_crops(index=order), _crops()[order])
    assert np.any(_crops(epoch=1) != _crops(epoch=0))


def test_padding_is_black_before_normalisation():
    crops = _crops(mean=(0.5,), std=(0.25,), pad=6)
    assert crops.min() == pytest.approx(-2.0)  # black: (0 - 0.5) / 0.25


def test_normalize_is_per_channel():
    normalize = pipeline.make_normalize((0.1, 0.2, 0.3), (0.5, 1.0, 2.0))
    found = normalize(jnp.full((1, 1, 1, 3), 255, jnp.uint8))
    np.testing.assert_allclose(np.ravel(found), [1.8, 0.8, 0.35], rtol=1e-6)


_LABELS = np.arange(6)
_IMAGES = np.broadcast_to(_LABELS[:, None, None, None], (6, 8, 10, 1)).astype(np.float32)


def _mix(kind, alpha=1.0, seeds=8):
    """Mixed images and the fields of their batch, for each of several keys."""
    mix = mixing.make_mix(kind, alpha)
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    mixed, fields = jax.jit(jax.vmap(mix, (0, None, None)))(keys, _IMAGES, _LABELS)
    assert set(fields) <= set(batch.Batch._fields)
    return np.asarray(mixed), jax.device_get(fields)


def test_mixup_blends_each_image_with_its_opposite():
    mixed, fields = _mix("mixup")
    assert fields["share"].shape == (8, 6)
    assert not np.ptp(fields["share"], axis=1).any()  # one for the batch
    share = fields["share"][:, 0, None, None, None, None]
    assert np.all((share > 0) & (share < 1))
    wanted = share * _IMAGES.astype(np.float64) + (1 - share) * _IMAGES[::-1]
    np.testing.assert_allclose(mixed, wanted, rtol=1e-6)
    np.testing.assert_array_equal(fields["other_label"], [_LABELS[::-1]] * 8)


def test_cutmix_pastes_a_box_and_its_share_is_the_area_left():
    images, fields = _mix("cutmix")
    for mixed, share in zip(images, fields["share"], strict=True):
        pasted = mixed[0, ..., 0] == _IMAGES[-1, 0, 0, 0]
        np.testing.assert_allclose(share, 1 - pasted.mean(), rtol=1e-6)
        rows, columns = pasted.any(1), pasted.any(0)
        np.testing.assert_array_equal(pasted, rows[:, None] & columns[None])  # one box
        assert np.isin(mixed[0], (0, 5)).all()


def test_shares_follow_alpha_and_the_key():
    shares = _mix("mixup", 0.1, seeds=40)[1]["share"][:, 0]
    assert np.mean((shares < 0.05) | (shares > 0.95)) > 0.5
    assert len(set(shares)) > 35
