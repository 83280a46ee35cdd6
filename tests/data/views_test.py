"""A finite number of views per image."""

import dataclasses

import jax
import numpy as np
import pytest

from rrd_jax.data.augment import pipeline
from rrd_jax.data.augment.views import Views
from rrd_jax.data.feeds import feed

pytestmark = pytest.mark.long

_RNG = np.random.default_rng(0)
_EXAMPLES = [
    {"image": _RNG.integers(0, 256, (20, 16, 3), np.uint8), "label": i % 4} for i in range(12)
]
_VIEWS = Views(count=4, seed=5)
_STREAMED = feed.Streamed(_EXAMPLES, 8, 3, resize=10, threads=3, area=0.3, views=_VIEWS)
_CHANGES = pipeline.Changes(jitter=(0.4, 0.4, 0.4, 0.1), grey=0.3)


def _augment(kind="crop_flip", **options):
    options = {"changes": _CHANGES, "views": _VIEWS, **options}
    return pipeline.make_augment(
        kind, mean=(0.5,) * 3, std=(0.25,) * 3, pad=2, flip=True, **options
    )


def test_each_view_of_an_image_occurs_once_per_cycle_of_epochs():
    views = Views(count=5)
    views_by_epoch = np.stack([views.of_epoch(3, epoch, 200) for epoch in range(10)])
    assert views_by_epoch.min() == 0
    assert views_by_epoch.max() == 4
    for cycle in (views_by_epoch[:5], views_by_epoch[5:]):
        assert (np.sort(cycle, axis=0) == np.arange(5)[:, None]).all()
    assert (views_by_epoch[0] != views_by_epoch[5]).any()
    # The images of an epoch use different views.
    assert np.bincount(views_by_epoch[0]).min() > 20
    assert (views.of_epoch(4, 0, 200) != views_by_epoch[0]).any()


def test_crops_on_the_host_depend_only_on_image_and_view():
    index = np.array([7, 0, 7, 3])
    (crops,) = _STREAMED.images_at(index, 4)
    assert crops.shape == (4, 4, 8, 8, 3)
    np.testing.assert_array_equal(crops[0], crops[2])
    assert len({view.tobytes() for view in crops[0]}) == 4
    # The seeds of two runs.
    for seed in (0, 1):
        for batch in _STREAMED.train_batches(4, seed, 0, 15):
            for image, i, view in zip(batch["image"], batch["index"], batch["view"], strict=True):
                if i in (7, 0, 3):
                    row = {7: 0, 0: 1, 3: 3}[int(i)]
                    np.testing.assert_array_equal(image, crops[row, view])
    other = dataclasses.replace(_STREAMED, views=Views(4, seed=6))
    assert (next(other.images_at(index, 4)) != crops).any()


def test_views_depend_on_seed_image_and_view_for_every_augmentation():
    images = np.stack([example["image"][:16] for example in _EXAMPLES[:6]])
    index = np.arange(6)
    for kind in ("none", "crop_flip", "resized_crop"):
        augment = _augment(kind)
        assert (augment.views, augment.choose) == (4, None)
        show = jax.jit(augment.show)
        first = np.asarray(show(np.full(6, 2), index, images))
        order = np.array([3, 1, 5, 0, 2, 4])
        again = show(np.full(6, 2), index[order], images[order])
        np.testing.assert_array_equal(again, first[order])
        other = np.asarray(show(np.full(6, 3), index, images))
        assert (other != first).any(axis=(1, 2, 3)).all()
        same = np.asarray(show(np.full(6, 2), index, images[:1].repeat(6, 0)))
        assert len({view.tobytes() for view in same}) == 6
    names = {_augment(views=Views(4, seed)).name for seed in (5, 6)}
    assert len(names | {_augment(views=Views(3, 5)).name}) == 3


def test_the_weak_view_of_a_teacher_is_the_view_of_the_student_without_changes():
    images = np.stack([example["image"][:16] for example in _EXAMPLES[:6]])
    plain, weak = _augment(changes=None), _augment(teacher="weak")
    view, index = np.arange(6) % 4, np.arange(6)
    np.testing.assert_array_equal(
        weak.show(view, index, images), _augment().show(view, index, images)
    )
    np.testing.assert_array_equal(
        weak.show_teacher(view, index, images), plain.show(view, index, images)
    )
    assert _augment(teacher="weak", changes=None).show_teacher is None
    assert weak.name != _augment().name
