import numpy as np
import pytest

from rrd_jax import errors
from rrd_jax.data.images import transforms


def test_pad_or_resize_scales_large_images_and_pads_small_images_with_black():
    np.testing.assert_array_equal(
        transforms.pad_or_resize(np.full((8, 8, 1), 9, np.uint8), 4), np.full((4, 4, 1), 9)
    )
    padded = transforms.pad_or_resize(np.full((2, 4, 1), 9, np.uint8), 4)
    np.testing.assert_array_equal(padded[..., 0], [[0] * 4, [9] * 4, [9] * 4, [0] * 4])


def test_decoding_a_png_restores_the_pixels():
    for shape in ((5, 6, 1), (5, 6, 3)):
        image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        decoded = transforms.decode(transforms.encode_png(image), shape[2])
        np.testing.assert_array_equal(decoded, image)
    with pytest.raises(errors.InputError, match="6 bytes cannot be decoded"):
        transforms.decode(b"gibber", 3)


def test_random_resized_crop_depends_on_the_generator_and_stays_inside_the_image():
    image = np.random.default_rng(0).integers(50, 200, (40, 60, 3), np.uint8)
    a, b, c = (
        transforms.random_resized_crop(np.random.default_rng(seed), image, 24) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(a, b)
    assert np.any(a != c)
    assert a.shape == (24, 24, 3)
    assert a.min() >= 45
    assert a.max() <= 205


@pytest.mark.parametrize("shape", [(300, 500, 3), (20, 20, 1), (1, 30_000, 3), (9_000, 2, 1)])
def test_center_crop_keeps_the_center(shape):
    image, (y, x, _) = np.zeros(shape, np.uint8), (size // 2 for size in shape)
    image[max(0, y - 2) : y + 2, max(0, x - 2) : x + 2] = 255
    crop = transforms.center_crop(image, 16, 18)
    assert crop.shape == (16, 16, shape[2])
    assert crop[7:9, 7:9].max() == crop.max() > 0
