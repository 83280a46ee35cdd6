"""What the step does to training images at random: a function of key, epoch and example alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rrd_jax import errors, parallel
from rrd_jax.data.augment import mixing, pipeline
from tests import launch

_ALL = pipeline.Changes(
    policy="rand_increasing",
    policy_operators=1,  # half as much to compile
    policy_noise=0.5,
    jitter=(0.4, 0.4, 0.4, 0.1),
    jitter_probability=0.8,
    grey=0.2,
    gaussian_blur=0.5,
    erase=0.25,
)
_FIELDS = {
    "data.policy": "rand",
    "data.jitter": (0.4, 0.4, 0.4, 0.1),
    "data.grey": 0.2,
    "data.gaussian_blur": 0.5,
    "data.erase": 0.25,
    "data.mix": "mixup+cutmix",
    "data.mix_alpha": 0.8,
}


def _augment(kind="crop_flip", **changes):
    changes = pipeline.Changes(**changes) if changes else _ALL
    statistics = {"mean": (0.5, 0.4, 0.3), "std": (0.25,) * 3}
    return pipeline.make_augment(kind, **statistics, pad=1, flip=True, changes=changes)


_IMAGES = np.random.default_rng(0).integers(0, 256, (16, 12, 12, 3), np.uint8)


@pytest.fixture(scope="module")
def show():
    """(images, epoch, index) -> shown images, compiled once for each sharding."""
    made = _augment()

    @jax.jit
    def show(images, epoch, index):
        return made.show(made.choose(jax.random.key(3), epoch, index), index, images)

    return show


def test_a_view_depends_on_epoch_and_example_alone_not_on_its_place_in_the_batch(show):
    index, order = np.arange(16), np.random.default_rng(1).permutation(16)
    whole = np.asarray(show(_IMAGES, 0, index))
    np.testing.assert_array_equal(show(_IMAGES[order], 0, index[order]), whole[order])
    other = np.asarray(show(_IMAGES, 1, index))
    assert np.all((other != whole).any(axis=(1, 2, 3)))
    same = np.asarray(show(_IMAGES[:1].repeat(16, 0), 0, index))
    assert len({view.tobytes() for view in same}) == 16


def test_views_are_the_same_on_eight_devices_which_exchange_nothing(show):
    mesh = parallel.make_mesh(jax.devices())
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    images, index = jax.device_put((_IMAGES, np.arange(16)), split)
    with jax.set_mesh(mesh):
        compiled = show.lower(images, 0, index).compile()
    text = compiled.as_text()
    assert not [word for word in ("all-gather", "all-reduce", "all-to-all") if word in text]
    found = compiled(images, 0, index)
    assert len(found.sharding.device_set) == 8
    np.testing.assert_array_equal(found, show(_IMAGES, 0, np.arange(16)))


def test_adding_a_change_leaves_what_the_others_draw_as_it_was():
    index = jnp.arange(16)

    def erased(made):
        show = jax.jit(lambda: made.show(made.choose(jax.random.key(0), 0, index), index, _IMAGES))
        return np.asarray(show())

    plain = erased(_augment("none", erase=0.5, erase_with="mean"))
    inverted = erased(_augment("none", erase=0.5, erase_with="mean", grey=1.0))
    boxes = (plain == 0).all(-1)
    assert boxes.any(axis=(1, 2)).mean() not in (0, 1)
    assert np.all((inverted == 0).all(-1)[boxes])


def test_without_changes_all_is_as_it_was():
    for kind, views in {"none": 1, "crop_flip": 18, "random_resized": 0}.items():
        assert _augment(kind, policy="none").views == views
        assert _augment(kind, jitter=(0.4, 0, 0, 0), jitter_probability=0.0).views == views
        assert _augment(kind, policy="trivial").views == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"policy": "trivia"}, "did you mean 'trivial'"),
    ],
)
def test_impossible_changes_are_refused(changes, words):
    with pytest.raises(errors.InputError, match=words):
        _augment(**changes)


def test_mixup_and_cutmix_take_turns_as_often_as_asked_for():
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
    # A box of no pixels leaves the image whole, which cutmix does here in one batch of ten.
    assert np.mean(is_mixed) == pytest.approx(0.7 - 0.02, abs=0.05)
    assert np.mean(pastes[is_mixed]) == pytest.approx(0.24, abs=0.06)
    blends = share[is_mixed & ~pastes]
    assert np.mean(blends) == pytest.approx(0.5, abs=0.05)
    assert np.var(blends) == pytest.approx(1 / 4 / (2 * 0.8 + 1), abs=0.015)  # of Beta(0.8, 0.8)


@pytest.mark.long
@pytest.mark.usefixtures("one_device", "tiny_network")
def test_a_run_with_all_of_it_goes_on_to_the_same_bits(tmp_path):
    config = launch.digits("smoke,tiny-tiny,rrd+kd", **_FIELDS)
    launch.check_goes_on(config, tmp_path)
