"""Colors and similarity maps of patches."""

import numpy as np
import pytest
from sklearn import decomposition

from rrd_jax import errors
from rrd_jax.evaluation import patch_colours


def _patches(seed, shape=(4, 6, 8, 12)):
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((*shape[:3], 4)) * [3, 2, 1, 0.2]
    return (latent @ rng.standard_normal((4, shape[3])) + 1).astype(np.float32)


def test_colors_are_the_clipped_principal_components_of_unit_patches():
    patches = _patches(0)
    (colors,) = patch_colours.colours([patches])
    flat = patches.reshape(-1, 12).astype(np.float64)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    expected = decomposition.PCA(3).fit_transform(flat)
    low, high = np.quantile(expected, (0.02, 0.98), axis=0)
    expected = np.clip((expected - low) / (high - low), 0, 1)
    for i in range(3):
        column = colors[..., i].ravel()
        # The sign of a component is arbitrary.
        error = min(np.abs(column - e).max() for e in (expected[:, i], 1 - expected[:, i]))
        assert error < 1e-6


def test_a_rotated_and_coarser_network_has_the_colors_of_the_first():
    patches = _patches(1)
    rotation = np.linalg.qr(np.random.default_rng(2).standard_normal((12, 12)))[0]
    first, rotated = patch_colours.colours([patches, 5 * patches @ rotation])
    np.testing.assert_allclose(rotated, first, atol=0.02)
    coarse = patches.reshape(4, 3, 2, 4, 2, 12)[:, :, 1, :, 1]
    first, second = patch_colours.colours([patches, coarse])
    np.testing.assert_allclose(second, first[:, 1::2, 1::2], atol=0.05)


def test_one_large_patch_does_not_use_all_colors():
    patches = _patches(3)
    before = patch_colours.colours([patches])[0]
    patches[0, 0, 0] *= 1000
    np.testing.assert_allclose(patch_colours.colours([patches])[0], before, atol=1e-5)


def test_narrow_networks_have_colors_and_constant_networks_are_refused():
    (colors,) = patch_colours.colours([_patches(0, (2, 3, 3, 2))])
    assert colors.shape == (2, 3, 3, 3)
    with pytest.raises(errors.InputError, match="all patches of a network are equal"):
        patch_colours.colours([np.ones((2, 3, 3, 4), np.float32)])
    with pytest.raises(errors.InputError, match="not finite"):
        patch_colours.colours([np.full((2, 3, 3, 4), np.nan, np.float32)])


@pytest.mark.parametrize(
    ("point", "patch"), [((0, 0), (0, 0)), ((1, 1), (5, 7)), ((0.5, 0.2), (1, 4))]
)
def test_similarities_are_cosines_with_the_patch_at_the_point(point, patch):
    patches = _patches(4).astype(np.float64)
    result = patch_colours.similarities(patches, 2, point)
    query = patches[2][patch]
    norms = np.linalg.norm(patches, axis=-1) * np.linalg.norm(query)
    np.testing.assert_allclose(result, patches @ query / norms, atol=1e-9)


def test_the_montage_has_a_column_for_each_image():
    images = np.random.default_rng(0).integers(0, 256, (3, 10, 10, 1), np.uint8)
    colors = np.zeros((3, 2, 2, 3))
    colors[1, 0, 1] = 1, 0, 0.5
    picture = patch_colours.montage(images, [colors], side=20)
    assert picture.shape == (40, 60, 3)
    np.testing.assert_array_equal(picture[:20:2, 20:40:2], np.repeat(images[1], 3, axis=-1))
    np.testing.assert_array_equal(picture[25, 35], [255, 0, 128])
    assert not picture[35, 35].any()
