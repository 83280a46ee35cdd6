import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors
from rrd_jax.data import augment

_PLAIN = {"mean": (0.0,), "std": (1 / 255,), "pad": 2, "flip": True}


def _crops(epoch=0, index=None, images=None, **options):
    images = np.arange(1, 50, dtype=np.uint8).reshape(1, 7, 7, 1).repeat(64, 0)
    index = np.arange(64) if index is None else index
    crop = augment.make_augment("crop_flip", **(_PLAIN | options))
    view = crop.choose(jax.random.key(0), jnp.int32(epoch), jnp.asarray(index))
    assert crop.views == 25 * (1 + options.get("flip", True)) or "pad" in options
    return np.asarray(crop.show(view, images))


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


def test_without_flip_nothing_is_mirrored():
    crops = np.round(_crops(flip=False)).astype(np.uint8)
    plain = set(list(_all_views(np.arange(1, 50, dtype=np.uint8).reshape(7, 7, 1), 2))[::2])
    assert {crop.tobytes() for crop in crops} <= plain


def test_padding_is_black_before_normalisation():
    crops = _crops(mean=(0.5,), std=(0.25,), pad=6)
    assert crops.min() == pytest.approx(-2.0)  # black: (0 - 0.5) / 0.25


def test_normalize_is_per_channel():
    normalize = augment.make_normalize((0.1, 0.2, 0.3), (0.5, 1.0, 2.0))
    found = normalize(jnp.full((1, 1, 1, 3), 255, jnp.uint8))
    np.testing.assert_allclose(np.ravel(found), [1.8, 0.8, 0.35], rtol=1e-6)


def test_random_resized_crop_is_a_function_of_the_generator_and_stays_inside():
    image = np.random.default_rng(0).integers(50, 200, (40, 60, 3), np.uint8)
    a, b, c = (
        augment.random_resized_crop(np.random.default_rng(seed), image, 24) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(a, b)
    assert np.any(a != c)
    assert a.shape == (24, 24, 3)
    assert a.min() >= 45
    assert a.max() <= 205


@pytest.mark.parametrize("shape", [(40, 60), (100, 3), (3, 100), (1, 1)])
def test_random_parts_have_the_area_and_aspect_asked_for(shape):
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(200):
        top, left, h, w = augment._random_part(rng, *shape)
        assert 0 <= top <= top + h <= shape[0]
        assert 0 <= left <= left + w <= shape[1]
        areas.append(h * w / (shape[0] * shape[1]))
    if shape == (40, 60):
        assert 0.06 < min(areas) < 0.15
        assert max(areas) > 0.75


@pytest.mark.parametrize("shape", [(300, 500, 3), (500, 300, 3), (20, 20, 1), (256, 256, 3)])
def test_center_crop_keeps_the_centre(shape):
    image = np.zeros(shape, np.uint8)
    image[shape[0] // 2 - 2 : shape[0] // 2 + 2, shape[1] // 2 - 2 : shape[1] // 2 + 2] = 255
    crop = augment.center_crop(image, 16, 18)
    assert crop.shape == (16, 16, shape[2])
    assert crop[7:9, 7:9].max() == crop.max()


def test_unknown_kinds_list_the_known():
    with pytest.raises(errors.InputError, match="known: none, crop_flip, random_resized"):
        augment.make_augment("mixup", **_PLAIN)


def _mix(kind, alpha=1.0, seed=0, batch=6):
    images = jnp.arange(batch, dtype=jnp.float32)[:, None, None, None] * jnp.ones((8, 10, 1))
    mix = jax.jit(augment.make_mix(kind, alpha))
    mixed, entries = mix(jax.random.key(seed), images, jnp.arange(batch))
    return np.asarray(images), np.asarray(mixed), jax.device_get(entries)


def test_mixup_blends_each_image_with_its_opposite():
    images, mixed, entries = _mix("mixup")
    assert np.ptp(entries["share"]) == 0  # one for the batch
    share = entries["share"][0]
    assert entries["share"].shape == (6,)
    assert 0 < share < 1
    np.testing.assert_allclose(mixed, share * images + (1 - share) * images[::-1], rtol=1e-6)
    np.testing.assert_array_equal(entries["other_label"], np.arange(6)[::-1])


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_pastes_a_box_and_its_share_is_the_area_left(seed):
    images, mixed, entries = _mix("cutmix", seed=seed)
    pasted = mixed[0, ..., 0] == images[-1, 0, 0, 0]
    np.testing.assert_allclose(entries["share"], 1 - pasted.mean(), rtol=1e-6)
    rows, columns = pasted.any(1), pasted.any(0)
    np.testing.assert_array_equal(pasted, rows[:, None] & columns[None])  # one box
    assert np.isin(mixed[0], (0, 5)).all()


def test_shares_follow_alpha_and_the_key():
    shares = np.array([_mix("mixup", 0.1, seed)[2]["share"][0] for seed in range(40)])
    assert np.mean((shares < 0.05) | (shares > 0.95)) > 0.5
    assert len(set(shares)) > 35


def test_an_unknown_mix_or_a_bad_alpha_is_refused():
    assert augment.make_mix("none", 1.0) is None
    with pytest.raises(errors.InputError, match="did you mean 'cutmix'"):
        augment.make_mix("cutmx", 1.0)
    with pytest.raises(errors.InputError, match="data.mix_alpha is 0"):
        augment.make_mix("mixup", 0.0)
