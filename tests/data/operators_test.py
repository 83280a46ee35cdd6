"""Image operators compared with Pillow and with NumPy arithmetic."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

from rrd_jax.data.augment import colours, erasing, operators

_SIZE = 24, 32
# Amounts per operator; other operators have no amount.
_AMOUNTS = {
    **dict.fromkeys(("shear_x", "shear_y"), (-0.33, 0.27)),
    **dict.fromkeys(("translate_x", "translate_y"), (-7.0, 4.0)),
    "rotate": (-77.0, 13.0),
    **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), (0.1, 0.73, 1.9)),
    "posterize": (2.0, 8.0),
    "solarize": (100.0, 255.0),
    "solarize_add": (33.0,),
}
_CASES = [
    (name, amount, i)
    for name in operators.OPERATORS
    for amount in _AMOUNTS.get(name, (0.0,))
    for i in range(3)
]
# Largest difference from Pillow, which rounds grayscale values and sums blends in another order.
_TOLERANCES = {"brightness": 1, "sharpness": 1, "autocontrast": 1, "color": 2, "contrast": 2}


def _images():
    """Returns three images: noise, a smooth gradient, and one with two constant channels."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (*_SIZE, 3), np.uint8)
    y, x = np.mgrid[: _SIZE[0], : _SIZE[1]]
    smooth = np.stack([3 * x + 40, 5 * y + 30, 2 * x + 3 * y], axis=-1).astype(np.uint8)
    flat = np.full((*_SIZE, 3), 77, np.uint8)
    flat[..., 1] = noise[..., 1] // 4
    return np.stack([noise, smooth, flat])


_IMAGES = _images()


@pytest.fixture(scope="module")
def results():
    """The transformed image of each case, computed in a single program."""
    numbers = jnp.asarray([operators.number(name) for name, _, _ in _CASES])
    amounts = jnp.asarray([amount for _, amount, _ in _CASES])
    images = _IMAGES[[i for _, _, i in _CASES]]
    actual = jax.jit(jax.vmap(operators.apply))(images, numbers, amounts)
    assert actual.dtype == jnp.uint8
    return dict(zip(_CASES, np.asarray(actual), strict=True))


def _apply_with_pillow(name, amount, image):
    source, (height, width) = Image.fromarray(image), image.shape[:2]
    enhance = {"brightness": "Brightness", "color": "Color", "contrast": "Contrast"}
    enhance |= {"sharpness": "Sharpness"}
    if name in enhance:
        return getattr(ImageEnhance, enhance[name])(source).enhance(amount)
    maps = {
        "shear_x": (1, amount, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, amount, 1, 0),
        "translate_x": (1, 0, -amount, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, -amount),
    }
    if name in maps:
        return source.transform((width, height), Image.Transform.AFFINE, maps[name])
    if name == "solarize_add":
        return source.point([min(255, i + int(amount)) if i < 128 else i for i in range(256)] * 3)
    others = {
        "identity": lambda: source,
        "rotate": lambda: source.rotate(amount),
        "posterize": lambda: ImageOps.posterize(source, int(amount)),
        "solarize": lambda: ImageOps.solarize(source, int(amount)),
        "autocontrast": lambda: ImageOps.autocontrast(source),
        "equalize": lambda: ImageOps.equalize(source),
        "invert": lambda: ImageOps.invert(source),
    }
    return others[name]()


@pytest.mark.parametrize("name", operators.OPERATORS)
def test_an_operator_equals_pillow(name, results):
    cases = [case for case in _CASES if case[0] == name]
    for _, amount, i in cases:
        expected = np.asarray(_apply_with_pillow(name, amount, _IMAGES[i])).astype(int)
        difference = np.abs(results[name, amount, i] - expected)
        if name == "rotate":
            # A source position on the border of two pixels may round to either of them.
            assert np.mean(difference.max(-1) > 0) < 0.01
        else:
            assert difference.max() <= _TOLERANCES.get(name, 0), amount


def test_an_operator_by_name_equals_the_operator_by_number(results):
    cases = {name: (name, amount, i) for name, amount, i in _CASES if i == 1}.values()
    apply = jax.jit(lambda image: [operators.apply(image, *case[:2]) for case in cases])
    for case, actual in zip(cases, apply(_IMAGES[1]), strict=True):
        difference = np.abs(results[case].astype(int) - np.asarray(actual))
        assert difference.max() <= (1 if case[0] in ("color", "sharpness") else 0), case


def test_grayscale_images_keep_their_shape_and_ignore_color_operators():
    image = _IMAGES[0, ..., :1]
    numbers = jnp.asarray([operators.number(name) for name in operators.OPERATORS])
    actual = jax.jit(jax.vmap(operators.apply, (None, 0, None)))(image, numbers, 2.0)
    assert actual.shape == (len(numbers), *image.shape)
    for name in ("identity", "color"):
        np.testing.assert_array_equal(actual[operators.OPERATORS.index(name)], image)
    np.testing.assert_array_equal(colours.hue(image, 0.3), image)
    np.testing.assert_array_equal(colours.grey(image), image)


@pytest.mark.long
def test_pixels_from_outside_are_filled_and_bilinear_interpolates():
    fill = jnp.asarray([10, 20, 30])
    moved = operators.apply(_IMAGES[0], "translate_x", 5.0, fill)
    np.testing.assert_array_equal(moved[:, :5], np.full((_SIZE[0], 5, 3), fill))
    number = operators.number("translate_x")
    between = operators.apply(_IMAGES[0], number, 0.25, fill, bilinear=True)
    by_name = operators.apply(_IMAGES[0], "translate_x", 0.25, fill, bilinear=True)
    np.testing.assert_array_equal(between, by_name)
    left = np.concatenate([np.full((_SIZE[0], 1, 3), fill), _IMAGES[0, :, :-1]], axis=1)
    np.testing.assert_array_equal(between, np.round(0.25 * left + 0.75 * _IMAGES[0]))


def test_hue_rotates_in_hsv():
    rotated = jax.jit(colours.hue)(_IMAGES[0], 0.23)
    for old, new in zip(_IMAGES[0, :3].reshape(-1, 3), rotated[:3].reshape(-1, 3), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(old / 255))
        expected = np.floor(255.999 * np.asarray(colorsys.hsv_to_rgb((h + 0.23) % 1, s, v)))
        assert np.abs(expected - new).max() <= 1


def test_gaussian_blur_is_a_gaussian_weighted_mean():
    blur = jax.jit(colours.gaussian_blur, static_argnums=2)
    for sigma in (0.1, 1.7):
        weights = np.exp(-np.square(np.arange(-2, 3) / sigma) / 2)
        expected = _IMAGES[0].astype(float)
        for axis in (0, 1):
            expected = ndimage.correlate1d(
                expected, weights / weights.sum(), axis=axis, mode="mirror"
            )
        assert np.abs(expected - blur(_IMAGES[0], sigma, 5)).max() < 0.501


def _keys(count):
    return jax.vmap(jax.random.key)(jnp.arange(count))


def test_jitter_draws_factors_within_the_range():
    # Gray pixels are unaffected by hue and saturation.
    image = jnp.full((4, 4, 3), 100, jnp.uint8).at[:2].set(50)
    jitter = jax.jit(
        jax.vmap(lambda key, p: colours.jitter(key, image, (0.4, 0.0, 0.9, 0.5), p), (0, None))
    )
    np.testing.assert_array_equal(jitter(_keys(2000), 0.0)[0], image)
    values = np.asarray(jitter(_keys(2000), 0.8))[:, -1, 0, 0] / 100
    assert 0.59 <= values.min() < 0.61
    assert 1.38 < values.max() <= 1.4
    assert np.mean(values == 1) == pytest.approx(0.2, abs=0.04)
    assert np.mean(values) == pytest.approx(1, abs=0.02)


def test_erased_boxes_have_the_configured_rate_and_size():
    draw = jax.jit(jax.vmap(lambda key: erasing.draw_box(key, (40, 50), 0.25)))
    top, left, height, width = map(np.asarray, draw(_keys(4000)))
    erased = height > 0
    assert np.mean(erased) == pytest.approx(0.25, abs=0.03)
    assert np.all((top >= 0) & (left >= 0) & (top + height <= 40) & (left + width <= 50))
    areas, aspects = (height * width)[erased] / 2000, (height / width)[erased]
    assert 0.015 < areas.min() < 0.03
    assert 0.31 < areas.max() < 0.35
    assert np.mean(areas) == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)
    assert np.mean(np.log(aspects)) == pytest.approx(0, abs=0.1)
    assert top[erased].max() + height[top.argmax()] <= 40


@pytest.mark.parametrize("value", erasing.ERASED)
def test_random_erase_changes_only_one_box(value):
    images = jnp.full((64, 12, 16, 3), 5.0)
    erase = jax.jit(jax.vmap(lambda key, image: erasing.random_erase(key, image, 1.0, value)))
    erased = np.asarray(erase(_keys(64), images))
    changed = erased != 5
    assert np.array_equal(changed.all(-1), changed.any(-1))
    for image, is_inside in zip(erased, changed[..., 0], strict=True):
        rows, columns = is_inside.any(1), is_inside.any(0)
        np.testing.assert_array_equal(is_inside, rows[:, None] & columns)
        colours_inside = {tuple(pixel) for pixel in image[is_inside]}
        assert len(colours_inside) == (is_inside.sum() if value == "pixels" else 1)
    noise = erased[changed]
    assert np.std(noise) == pytest.approx(0 if value == "mean" else 1, abs=0.2)
    assert np.mean(noise) == pytest.approx(0, abs=0.1 if value == "pixels" else 0.4)
