"""Preprocessing of single images, as for a test split."""

import io

import numpy as np
import PIL.Image
import pytest

from rrd_jax import errors
from rrd_jax.data.images import decoding, reader, transforms
from rrd_jax.data.model_info import Preprocessing
from tests.data import folders

_GREY = Preprocessing(16, 1, (0.5,), (0.5,))
_COLOR = Preprocessing(16, 3, (0.5,) * 3, (0.5,) * 3)
_CROPPED = Preprocessing(8, 3, (0.5,) * 3, (0.5,) * 3, resize=12)
_RNG = np.random.default_rng(0)


def _encoded(mode="RGB", kind="PNG", orientation=None, size=(12, 10)):
    pixels = _RNG.integers(0, 256, (*size[::-1], 4), np.uint8)
    image, exif = PIL.Image.fromarray(pixels, "RGBA").convert("RGB").convert(mode), PIL.Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, kind, exif=exif)
    return file.getvalue()


def test_grayscale_images_are_prepared_as_in_data_sets_and_rotated_upright():
    for kind, mode, orientation in (("PNG", "RGB", 6), ("JPEG", "RGB", None), ("JPEG", "L", 6)):
        content = _encoded(mode, kind, orientation)
        expected = decoding.upright(transforms.decode(content, 1), orientation or 1)
        expected = transforms.pad_or_resize(expected, 16)
        np.testing.assert_array_equal(reader.read(content, _GREY), expected, strict=True)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_files_arrays_and_pil_images_of_the_same_pixels_are_equal(mode, tmp_path):
    content = _encoded(mode)
    (tmp_path / "a.png").write_bytes(content)
    image = PIL.Image.open(io.BytesIO(content))
    pixels = np.asarray(image.convert("RGB"))
    for preprocessing in (_GREY, _COLOR, _CROPPED):
        images = [tmp_path / "a.png", str(tmp_path / "a.png"), content, image, pixels]
        images += [pixels / np.float32(255)]
        first, *others = (reader.read(item, preprocessing) for item in images)
        assert first.shape == preprocessing.image_shape
        for other in others:
            # OpenCV converts PNG files to grayscale with an error of at most one level.
            difference = np.abs(first.astype(int) - other)
            assert difference.max() <= (1 if preprocessing is _GREY else 0)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("half.jpg", folders.encoded("JPEG", (60, 60))[:700], "truncated|damaged"),
        ("half.png", folders.encoded("PNG")[:300], "damaged"),
        ("empty.jpg", b"", "empty file"),
        ("text.jpg", b"hello", "not an image"),
        ("negative.dng", b"II*\0", "raw camera file"),
        ("huge.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"\x7f\xff\xff\xff" * 2, "damaged|claims"),
    ],
)
def test_errors_for_unreadable_files_name_the_reason(name, content, reason, tmp_path):
    (tmp_path / name).write_bytes(content)
    for preprocessing in (_GREY, _COLOR):
        with pytest.raises(errors.InputError, match=reason):
            reader.read(tmp_path / name, preprocessing)


def test_missing_files_and_invalid_images_are_refused(tmp_path):
    for image, reason in [
        (tmp_path / "missing", "No such file"),
        (tmp_path, "Is a directory"),
        ("a\0b", "null"),
        (3, "the image is 3, but must be the path of a file"),
        (np.zeros((5, 5, 5)), "but must be the path of a file"),
        (np.full((4, 4, 3), -2.0), "data.std normalize the images"),
    ]:
        with pytest.raises(errors.InputError, match=reason):
            reader.read(image, _COLOR)


def test_read_all_keeps_the_order_and_limits_the_prefetch():
    started = []

    def images():
        for i in range(40):
            started.append(i)
            yield np.full((4, 4, 3), i, np.uint8) if i % 10 else i

    results = reader.read_all(images(), Preprocessing(4, 3, (0,) * 3, (1,) * 3), prefetch=6)
    values = []
    for _, pixels in results:
        values.append(pixels if isinstance(pixels, Exception) else int(pixels[0, 0, 0]))
        assert len(started) <= len(values) + 6
    assert [v if isinstance(v, int) else None for v in values] == [
        i if i % 10 else None for i in range(40)
    ]
