import dataclasses

import jax
import numpy as np
import pytest

from rrd_jax import data, errors
from rrd_jax.data.augment import pipeline
from rrd_jax.data.feeds import feed
from rrd_jax.data.images import transforms
from rrd_jax.training import step


def _resident(count=10, size=4):
    pixels = np.arange(count * size * size, dtype=np.uint8).reshape(count, size, size, 1)
    examples = [{"image": image, "label": i} for i, image in enumerate(pixels)]
    return feed.Resident(examples, size, channels=1)


def _streamed(count=10):
    rng = np.random.default_rng(0)
    shapes = rng.integers(20, 40, (count, 2))
    examples = [
        {"image": rng.integers(0, 256, (h, w, 3), np.uint8), "label": i}
        for i, (h, w) in enumerate(shapes)
    ]
    return feed.Streamed(examples, size=16, channels=3, resize=18, threads=4)


def _batches(split, size, seed, start, stop):
    """Returns the batches of a split as the train step receives them, for steps [start, stop)."""
    if not split.on_device:
        return split.train_batches(size, seed, start, stop)
    images, steps_per_epoch = split.images.reshape(len(split), -1), len(split) // size
    batches = []
    for i in range(start, stop):
        order = feed.epoch_order(seed, i // steps_per_epoch, size, len(split))
        on_devices = step.Split(images, split.labels, order)
        on_devices = jax.tree.map(jax.numpy.asarray, on_devices)
        batch = step.resident_batch(on_devices, i, steps_per_epoch, split.images.shape[1:])
        batches.append(batch._asdict())
    return batches


@pytest.mark.parametrize("split", [_resident(), _streamed()], ids=["resident", "streamed"])
def test_an_epoch_visits_each_example_once_and_drops_the_last_partial_batch(split):
    batches = list(_batches(split, 3, seed=0, start=0, stop=6))
    for epoch in (batches[:3], batches[3:]):
        indices = np.concatenate([batch["index"] for batch in epoch])
        assert len(indices) == 9
        assert len(set(indices)) == 9
    assert [b["index"].tolist() for b in batches[:3]] != [b["index"].tolist() for b in batches[3:]]


@pytest.mark.parametrize("split", [_resident(), _streamed()], ids=["resident", "streamed"])
def test_batches_from_any_first_step_have_the_same_pixels(split):
    expected = list(_batches(split, 3, seed=7, start=0, stop=6))
    for start in (1, 4):
        _assert_same(expected[start:], _batches(split, 3, seed=7, start=start, stop=6))


# The threads decode 5 and 6 images at once.
@pytest.mark.parametrize("size", [5, 12])
def test_batches_do_not_depend_on_the_number_of_threads(size):
    single, several = (dataclasses.replace(_streamed(24), threads=threads) for threads in (1, 5))
    _assert_same(*(_batches(split, size, 3, 1, 6) for split in (single, several)))


def _assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        for name in ("image", "label", "index"):
            np.testing.assert_array_equal(a[name], b[name])


def test_both_feeds_return_the_same_images_in_the_same_order():
    crop = pipeline.make_augment("crop_flip", mean=(0.0,), std=(1.0,), pad=2, flip=True)
    padded = feed.Streamed(_resident().examples, size=4, channels=1, threads=3)
    resident, streamed = (_batches(split, 3, 3, 2, 7) for split in (_resident(), padded))
    for number, (a, b) in enumerate(zip(resident, streamed, strict=True), start=2):
        np.testing.assert_array_equal(a["index"], b["index"])
        np.testing.assert_array_equal(a["label"], b["label"])
        views = [crop.choose(jax.random.key(0), number // 3, x["index"]) for x in (a, b)]
        pairs = zip(views, (a, b), strict=True)
        np.testing.assert_array_equal(*(crop.show(v, x["index"], x["image"]) for v, x in pairs))


# workers_test counts the remaining processes, so it must not run at the same time.
@pytest.mark.xdist_group("workers")
def test_batches_of_worker_processes_equal_those_of_threads_from_any_step():
    threads = _streamed()
    workers = dataclasses.replace(threads, workers=2)
    expected = list(_batches(threads, 3, seed=7, start=0, stop=6))
    _assert_same(expected[2:], _batches(workers, 3, seed=7, start=2, stop=6))


@pytest.mark.long
@pytest.mark.xdist_group("workers")
def test_test_batches_of_worker_processes_equal_those_of_threads():
    threads = _streamed()
    workers = dataclasses.replace(threads, workers=2)
    for a, b in zip(threads.test_batches(4), workers.test_batches(4), strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])


def test_each_seed_has_its_own_order():
    orders = {feed.epoch_order(seed, 0, 10, 10).tobytes() for seed in range(3)}
    assert len(orders) == 3


@pytest.mark.parametrize("processes", [2, 4])
def test_the_shares_of_several_processes_form_the_batches_of_one_process(processes):
    split = _streamed()
    parts = [
        split.train_batches(4, seed=1, start=1, stop=5, process_share=(i, processes))
        for i in range(processes)
    ]
    joined = [
        {name: np.concatenate([s[name] for s in shares]) for name in ("image", "label", "index")}
        for shares in zip(*parts, strict=True)
    ]
    _assert_same(_batches(split, 4, seed=1, start=1, stop=5), joined)


def test_a_damaged_image_is_reported_and_replaced_by_black(capsys, monkeypatch):
    monkeypatch.setattr(transforms, "_damage", transforms._Damage())
    examples = [{"image": np.full((9, 9, 3), 7, np.uint8), "label": i} for i in range(6)]
    examples[4] = {"image": b"gibber", "label": 4, "file_name": b"n01_4.JPEG"}
    for split in (feed.Streamed(examples, 8, 3, 9), feed.Resident(examples, 8, 3)):
        batches = list(split.test_batches(4))
        labels = np.concatenate([b["label"] for b in batches])
        np.testing.assert_array_equal(labels[:6], np.arange(6))
        assert not batches[1]["image"][0].any()
        assert batches[1]["image"][1].any()
        assert len(list(_batches(split, 3, 0, 0, 4))) == 4
    lines = capsys.readouterr().err.strip().split("\n")
    assert len(lines) == 1
    assert "image 'n01_4.JPEG' (example 4)" in lines[0]
    assert "using a black image" in lines[0]


def test_many_damaged_images_end_the_run(monkeypatch):
    monkeypatch.setattr(transforms, "_damage", transforms._Damage())
    black = [{"image": b"gibber", "label": 0, "file_name": b"n01_4.JPEG"}] * 20
    with pytest.raises(errors.InputError, match="10 of the first 10 images.*'n01_4.JPEG'.*repair"):
        feed.Resident(black, 8, 3).labels  # noqa: B018


@pytest.mark.parametrize("split", [_resident(), _streamed()], ids=["resident", "streamed"])
def test_test_batches_cover_each_example_once_and_pad_with_black(split):
    batches = list(split.test_batches(4))
    assert [batch["image"].shape[0] for batch in batches] == [4, 4, 4]
    np.testing.assert_array_equal(np.concatenate([b["label"] for b in batches])[:10], np.arange(10))
    assert not batches[-1]["image"][2:].any()
    assert batches[-1]["image"][:2].any()


@pytest.mark.parametrize(("image_size", "is_told"), [(32, True), (10, False)])
def test_images_that_are_mostly_padding_are_told(image_size, is_told):
    images = np.zeros((8, 8, 6), np.uint8)
    split = images, np.arange(8) % 2
    for train in (split, list(zip(*split, strict=True))):
        summary = data.from_sources(train, train, data.Source(image_size=image_size)).summary
        text = "images of at most 8 pixels cover at most 6.2 % of data.image_size 32 x 32"
        assert any(text in warning for warning in summary.warnings) == is_told
