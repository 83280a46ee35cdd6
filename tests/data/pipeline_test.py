"""Augmentation in the train step: a pure function of key, epoch and example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rrd_jax import errors, parallel
from rrd_jax.data.augment import pipeline
from tests import launch

pytestmark = pytest.mark.long

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


def test_crop_flip_draws_many_views_of_the_padded_image():
    crops = np.round(_crops()).astype(np.uint8)
    views = set(_all_views(np.arange(1, 50, dtype=np.uint8).reshape(7, 7, 1), 2))
    assert len(views) == 50
    distinct = {crop.tobytes() for crop in crops}
    assert distinct <= views
    assert len(distinct) > 25


def test_a_crop_depends_on_epoch_and_example_but_not_on_the_batch_position():
    order = np.random.default_rng(0).permutation(64)
    np.testing.assert_array_equal(_crops(index=order), _crops()[order])
    assert np.any(_crops(epoch=1) != _crops(epoch=0))


def test_padding_is_black_before_the_normalization_per_channel():
    crops = _crops(mean=(0.5,), std=(0.25,), pad=6)
    # Black is (0 - 0.5) / 0.25.
    assert crops.min() == pytest.approx(-2.0)
    normalize = pipeline.make_normalize((0.1, 0.2, 0.3), (0.5, 1.0, 0.25))
    actual = normalize(jnp.full((1, 1, 1, 3), 255, jnp.uint8))
    np.testing.assert_allclose(np.ravel(actual), [1.8, 0.8, 2.8], rtol=1e-6)


_CHANGES = {"jitter": (0.4, 0.4, 0.4, 0.1), "grey": 0.2, "gaussian_blur": 0.5, "erase": 0.25}
_ALL = pipeline.Changes(
    **{"policy": "rand_increasing", "policy_noise": 0.5, "jitter_probability": 0.8, **_CHANGES},
    # One operator halves the compile time.
    policy_operators=1,
)
_FIELDS = {f"data.{name}": value for name, value in _CHANGES.items()}
_FIELDS |= {"data.policy": "rand", "data.mix": "mixup+cutmix", "data.mix_alpha": 0.8}


def _augment(kind="crop_flip", **changes):
    changes = pipeline.Changes(**changes) if changes else _ALL
    statistics = {"mean": (0.5, 0.4, 0.3), "std": (0.25,) * 3}
    return pipeline.make_augment(kind, **statistics, pad=1, flip=True, changes=changes)


_IMAGES = np.random.default_rng(0).integers(0, 256, (16, 12, 12, 3), np.uint8)


@pytest.fixture(scope="module")
def show():
    """A function (images, epoch, index) -> augmented images, compiled once per sharding."""
    augment = _augment()

    @jax.jit
    def show(images, epoch, index):
        return augment.show(augment.choose(jax.random.key(3), epoch, index), index, images)

    return show


def test_a_view_depends_on_epoch_and_example_but_not_on_the_batch_position(show):
    index, order = np.arange(16), np.random.default_rng(1).permutation(16)
    expected = np.asarray(show(_IMAGES, 0, index))
    np.testing.assert_array_equal(show(_IMAGES[order], 0, index[order]), expected[order])
    other = np.asarray(show(_IMAGES, 1, index))
    assert np.all((other != expected).any(axis=(1, 2, 3)))
    same = np.asarray(show(_IMAGES[:1].repeat(16, 0), 0, index))
    assert len({view.tobytes() for view in same}) == 16


def test_views_on_eight_devices_are_identical_and_need_no_communication(show):
    mesh = parallel.make_mesh(jax.devices())
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    images, index = jax.device_put((_IMAGES, np.arange(16)), split)
    with jax.set_mesh(mesh):
        compiled = show.lower(images, 0, index).compile()
    text = compiled.as_text()
    assert not [word for word in ("all-gather", "all-reduce", "all-to-all") if word in text]
    actual = compiled(images, 0, index)
    assert len(actual.sharding.device_set) == 8
    np.testing.assert_array_equal(actual, show(_IMAGES, 0, np.arange(16)))


def test_an_added_change_does_not_alter_the_random_draws_of_other_changes():
    index = jnp.arange(16)

    def show_erased(augment):
        show = jax.jit(
            lambda: augment.show(augment.choose(jax.random.key(0), 0, index), index, _IMAGES)
        )
        return np.asarray(show())

    plain = show_erased(_augment("none", erase=0.5, erase_with="mean"))
    inverted = show_erased(_augment("none", erase=0.5, erase_with="mean", grey=1.0))
    boxes = (plain == 0).all(-1)
    assert boxes.any(axis=(1, 2)).mean() not in (0, 1)
    assert np.all((inverted == 0).all(-1)[boxes])


def test_inactive_changes_keep_the_number_of_views():
    for kind, views in {"none": 1, "crop_flip": 18, "random_resized": 0}.items():
        assert _augment(kind, policy="none").views == views
        assert _augment(kind, jitter=(0.4, 0, 0, 0), jitter_probability=0.0).views == views
        assert _augment(kind, policy="trivial").views == 0
    with pytest.raises(errors.InputError, match="did you mean 'trivial'"):
        _augment(policy="trivia")


@pytest.mark.usefixtures("one_device", "tiny_network")
def test_a_resumed_run_with_all_augmentations_is_bit_identical(tmp_path):
    config = launch.digits("smoke,tiny-tiny,rrd+kd", **_FIELDS)
    launch.check_resume(config, tmp_path)
