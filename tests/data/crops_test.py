"""Crops and solarization on the device, compared with Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from rrd_jax.data.augment import colours, crops, pipeline

_IMAGE = np.random.default_rng(0).integers(0, 256, (24, 18, 3), np.uint8)


def test_resized_crops_equal_those_of_pillow():
    boxes = [(0, 0, 24, 18), (3, 5, 7, 11), (10, 2, 14, 4), (23, 17, 1, 1), (1, 0, 20, 17)]
    scale = jax.jit(jax.vmap(crops.resized, (None, 0, 0, 0, 0)))
    resized = np.asarray(scale(_IMAGE, *jnp.asarray(boxes).T), np.int32)
    for actual, (top, left, height, width) in zip(resized, boxes, strict=True):
        part = Image.fromarray(_IMAGE).crop((left, top, left + width, top + height))
        expected = np.asarray(part.resize((18, 24), Image.Resampling.BILINEAR), np.int32)
        # Pillow rounds after each direction.
        assert np.abs(actual - expected).max() <= 1


def test_random_boxes_have_the_configured_areas_and_aspect_ratios():
    numbers = jax.random.uniform(jax.random.key(0), (4000, 10, 4))
    draw = jax.jit(jax.vmap(lambda n: crops.random_box(n, (64, 64), 0.2)))
    top, left, height, width = map(np.asarray, draw(numbers))
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 64).all()
    assert (left + width <= 64).all()
    area, aspect = height * width / 64**2, width / height
    assert area.min() > 0.18
    assert 0.7 < aspect.min() < 0.8
    assert 1.25 < aspect.max() < 1.45
    # Boxes that do not fit are drawn again, which makes large boxes rarer.
    assert 0.5 < area.mean() < 0.6
    assert np.mean(np.log(aspect)) == pytest.approx(0, abs=0.02)


def test_the_center_is_used_if_no_box_fits():
    numbers = jnp.tile(jnp.array([[0.99, 0.5, 0.5, 0.5]]), (10, 1))
    assert [int(x) for x in crops.random_box(numbers, (6, 60), 0.9)] == [0, 26, 6, 8]


def test_half_of_the_crops_are_flipped_if_flip_is_set():
    ramp = np.tile(np.arange(0, 240, 10, dtype=np.uint8)[None, :, None], (24, 1, 1))
    images = np.tile(ramp[None], (64, 1, 1, 1))
    for flip, limits in ((True, (20, 44)), (False, (0, 0))):
        crop = crops.resized_crop(0.2, flip)
        flipped = np.asarray(jax.jit(crop.cut)(jnp.arange(64), images), np.int32)
        mirrored = np.sum(flipped[:, 0, 0, 0] > flipped[:, 0, -1, 0])
        assert limits[0] <= mirrored <= limits[1]


def test_random_solarize_equals_pillow_at_the_configured_rate():
    keys = jax.random.split(jax.random.key(0), 1000)
    images = jax.jit(jax.vmap(colours.random_solarize, (0, None, None)))(keys, _IMAGE, 0.2)
    expected = np.asarray(ImageOps.solarize(Image.fromarray(_IMAGE), 128))
    changed = (np.asarray(images) != _IMAGE).any(axis=(1, 2, 3))
    assert np.mean(changed) == pytest.approx(0.2, abs=0.04)
    np.testing.assert_array_equal(images[int(np.argmax(changed))], expected)


def test_every_second_view_has_separate_probabilities():
    changes = pipeline.Changes(solarize=0.0, gaussian_blur=0.0, others=(0.0, 1.0))
    augment = pipeline.make_augment(
        "none", mean=(0.0,) * 3, std=(1.0,) * 3, pad=0, flip=False, changes=changes
    )
    images = np.tile(_IMAGE[None], (6, 1, 1, 1))
    views = np.asarray(jax.jit(augment.show)(jnp.arange(6), jnp.zeros(6, jnp.int32), images))
    changed = (np.abs(views - _IMAGE / 255.0) > 1e-3).any(axis=(1, 2, 3))
    assert changed.tolist() == [False, True] * 3
