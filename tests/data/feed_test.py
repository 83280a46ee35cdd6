import io

import numpy as np
import pytest
from PIL import Image

from rrd_jax import errors
from rrd_jax.data import augment, feed


def _resident(examples=10, size=4):
    images = np.arange(examples * size * size, dtype=np.uint8).reshape(examples, size, size, 1)
    return feed.Resident(images, np.arange(examples, dtype=np.int32))


def _streamed(examples=10):
    rng = np.random.default_rng(0)
    shapes = rng.integers(20, 40, (examples, 2))
    source = [
        {"image": rng.integers(0, 256, (h, w, 3), np.uint8), "label": i}
        for i, (h, w) in enumerate(shapes)
    ]
    return feed.Streamed(source, size=16, channels=3, resize=18, threads=4)


@pytest.mark.parametrize("split", [_resident(), _streamed()], ids=["resident", "streamed"])
def test_an_epoch_visits_each_example_once_and_drops_the_last_partial_batch(split):
    batches = list(split.train_batches(3, seed=0, start=0, stop=6))
    for epoch in (batches[:3], batches[3:]):
        seen = np.concatenate([batch["index"] for batch in epoch])
        assert len(seen) == 9
        assert len(set(seen)) == 9
    assert [b["index"].tolist() for b in batches[:3]] != [b["index"].tolist() for b in batches[3:]]


@pytest.mark.parametrize("split", [_resident(), _streamed()], ids=["resident", "streamed"])
@pytest.mark.parametrize("start", [1, 3, 4])
def test_any_step_can_be_the_first_and_gets_the_same_pixels(split, start):
    whole = list(split.train_batches(3, seed=7, start=0, stop=6))[start:]
    rest = list(split.train_batches(3, seed=7, start=start, stop=6))
    assert len(whole) == len(rest) == 6 - start
    for a, b in zip(whole, rest, strict=True):
        for name in ("image", "label", "index"):
            np.testing.assert_array_equal(a[name], b[name])


def test_both_feeds_visit_the_same_order():
    resident = _resident().train_batches(3, seed=3, start=0, stop=6)
    streamed = _streamed().train_batches(3, seed=3, start=0, stop=6)
    for a, b in zip(resident, streamed, strict=True):
        np.testing.assert_array_equal(a["index"], b["index"])


def test_other_seeds_give_other_orders():
    orders = [feed.order(seed, 0, 10, 10).tolist() for seed in range(3)]
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize("split", [_resident(), _streamed()], ids=["resident", "streamed"])
def test_testing_covers_each_example_once_with_a_smaller_last_batch(split):
    batches = list(split.test_batches(4))
    assert [len(batch["label"]) for batch in batches] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([b["label"] for b in batches]), np.arange(10))


def test_resident_decodes_and_fits_every_image():
    import cv2

    image = np.full((3, 3, 1), 200, np.uint8)
    encoded = cv2.imencode(".png", image)[1].tobytes()
    split = feed.resident([{"image": encoded, "label": 1}, {"image": image, "label": 2}], 5, 1)
    assert split.images.shape == (2, 5, 5, 1)
    np.testing.assert_array_equal(split.images[0], split.images[1])
    assert split.images[0, 0, 0, 0] == 0
    assert split.images[0, 2, 2, 0] == 200
    np.testing.assert_array_equal(split.labels, [1, 2])


def test_decoding_keeps_red_green_blue():
    import cv2

    image = np.zeros((2, 2, 3), np.uint8)
    image[..., 0] = 255  # red
    encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
    np.testing.assert_array_equal(feed.decode(encoded, 3), image)


@pytest.mark.parametrize(("mode", "suffix"), [("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG")])
def test_files_of_other_channels_are_converted(mode, suffix):
    file = io.BytesIO()
    Image.new(mode, (6, 4)).save(file, suffix)
    assert feed.decode(file.getvalue(), 3).shape == (4, 6, 3)
    assert feed.decode(file.getvalue(), 1).shape == (4, 6, 1)


def test_what_is_no_image_is_refused():
    with pytest.raises(errors.InputError, match="6 bytes cannot be decoded"):
        feed.decode(b"gibber", 3)


def test_fit_scales_larger_images_down():
    image = np.full((8, 8, 1), 9, np.uint8)
    np.testing.assert_array_equal(augment.fit(image, 4), np.full((4, 4, 1), 9))
