"""Crops that the step makes, beside Pillow's; and solarising."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from rrd_jax.data.augment import colours, crops, pipeline

_IMAGE = np.random.default_rng(0).integers(0, 256, (24, 18, 3), np.uint8)


def test_a_part_is_scaled_as_pillow_scales_it():
    boxes = [(0, 0, 24, 18), (3, 5, 7, 11), (10, 2, 14, 4), (23, 17, 1, 1), (1, 0, 20, 17)]
    scale = jax.jit(jax.vmap(crops.resized, (None, 0, 0, 0, 0)))
    ours = np.asarray(scale(_IMAGE, *jnp.asarray(boxes).T), np.int32)
    for found, (top, left, height, width) in zip(ours, boxes, strict=True):
        part = Image.fromarray(_IMAGE).crop((left, top, left + width, top + height))
        wanted = np.asarray(part.resize((18, 24), Image.Resampling.BILINEAR), np.int32)
        assert np.abs(found - wanted).max() <= 1  # Pillow rounds after each direction


def test_boxes_have_the_areas_and_aspects_of_the_field():
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
    # What does not fit is drawn again, so that large ones are rarer.
    assert 0.5 < area.mean() < 0.6
    assert np.mean(np.log(aspect)) == pytest.approx(0, abs=0.02)


def test_an_image_that_no_box_fits_into_gives_its_centre():
    numbers = jnp.tile(jnp.array([[0.99, 0.5, 0.5, 0.5]]), (10, 1))
    assert [int(x) for x in crops.random_box(numbers, (6, 60), 0.9)] == [0, 26, 6, 8]


def test_half_of_the_crops_are_mirrored_unless_none_is_to_be():
    ramp = np.tile(np.arange(0, 240, 10, dtype=np.uint8)[None, :, None], (24, 1, 1))
    images = np.tile(ramp[None], (64, 1, 1, 1))
    for flip, wanted in ((True, (20, 44)), (False, (0, 0))):
        crop = crops.resized_crop(0.2, flip)
        seen = np.asarray(jax.jit(crop.cut)(jnp.arange(64), images), np.int32)
        mirrored = np.sum(seen[:, 0, 0, 0] > seen[:, 0, -1, 0])
        assert wanted[0] <= mirrored <= wanted[1]


def test_solarising_is_pillows_as_often_as_asked_for():
    keys = jax.random.split(jax.random.key(0), 1000)
    shown = jax.jit(jax.vmap(colours.random_solarize, (0, None, None)))(keys, _IMAGE, 0.2)
    wanted = np.asarray(ImageOps.solarize(Image.fromarray(_IMAGE), 128))
    changed = (np.asarray(shown) != _IMAGE).any(axis=(1, 2, 3))
    assert np.mean(changed) == pytest.approx(0.2, abs=0.04)
    np.testing.assert_array_equal(shown[int(np.argmax(changed))], wanted)


def test_every_other_view_has_its_own_chances():
    changes = pipeline.Changes(solarize=0.0, gaussian_blur=0.0, others=(0.0, 1.0))
    made = pipeline.make_augment(
        "none", mean=(0.0,) * 3, std=(1.0,) * 3, pad=0, flip=False, changes=changes
    )
    images = np.tile(_IMAGE[None], (6, 1, 1, 1))
    shown = np.asarray(jax.jit(made.show)(jnp.arange(6), jnp.zeros(6, jnp.int32), images))
    changed = (np.abs(shown - _IMAGE / 255.0) > 1e-3).any(axis=(1, 2, 3))
    assert changed.tolist() == [False, True] * 3
