"""Images outside data sets go through the steps of a test split."""

import io

import numpy as np
import PIL.Image
import pytest

from rrd_jax import errors
from rrd_jax.data.images import decoding, reader, transforms
from rrd_jax.data.model_info import Preprocessing
from tests.data import folders

_GREY = Preprocessing(16, 1, (0.5,), (0.5,))
_COLOUR = Preprocessing(16, 3, (0.5,) * 3, (0.5,) * 3)
_CUT = Preprocessing(8, 3, (0.5,) * 3, (0.5,) * 3, resize=12)
_RNG = np.random.default_rng(0)


def _encoded(mode="RGB", kind="PNG", orientation=None, size=(12, 10)):
    pixels = _RNG.integers(0, 256, (*size[::-1], 4), np.uint8)
    image, exif = PIL.Image.fromarray(pixels, "RGBA").convert("RGB").convert(mode), PIL.Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, kind, exif=exif)
    return file.getvalue()


def test_a_grey_network_sees_what_a_prepared_set_would_give_it_upright():
    for kind, mode, orientation in (("PNG", "RGB", 6), ("JPEG", "RGB", None), ("JPEG", "L", 6)):
        content = _encoded(mode, kind, orientation)
        wanted = decoding.upright(transforms.decode(content, 1), orientation or 1)
        wanted = transforms.pad_or_resize(wanted, 16)
        np.testing.assert_array_equal(reader.read(content, _GREY), wanted, strict=True)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_files_arrays_and_pil_images_of_the_same_pixels_are_seen_alike(mode, tmp_path):
    content = _encoded(mode)
    (tmp_path / "a.png").write_bytes(content)
    image = PIL.Image.open(io.BytesIO(content))
    pixels = np.asarray(image.convert("RGB"))
    for wanted in (_GREY, _COLOUR, _CUT):
        given = [tmp_path / "a.png", str(tmp_path / "a.png"), content, image, pixels]
        given += [pixels / np.float32(255)]
        first, *others = (reader.read(one, wanted) for one in given)
        assert first.shape == wanted.image_shape
        for other in others:
            # OpenCV's own grey of PNG differs from that of pixels by one level at most.
            apart = np.abs(first.astype(int) - other)
            assert apart.max() <= (1 if wanted is _GREY else 0)


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
def test_what_cannot_be_read_is_an_error_that_says_why(name, content, reason, tmp_path):
    (tmp_path / name).write_bytes(content)
    for wanted in (_GREY, _COLOUR):
        with pytest.raises(errors.InputError, match=reason):
            reader.read(tmp_path / name, wanted)


def test_paths_that_lead_to_no_file_and_things_that_are_no_images_are_errors(tmp_path):
    for path, reason in [
        (tmp_path / "missing", "No such file"),
        (tmp_path, "Is a directory"),
        ("a\0b", "null"),
        (3, "the image is 3, but must be the path of a file"),
        (np.zeros((5, 5, 5)), "but must be the path of a file"),
        (np.full((4, 4, 3), -2.0), "data.std normalize the images"),
    ]:
        with pytest.raises(errors.InputError, match=reason):
            reader.read(path, _COLOUR)


def test_images_come_in_order_and_few_are_read_ahead():
    begun = []

    def given():
        for i in range(40):
            begun.append(i)
            yield np.full((4, 4, 3), i, np.uint8) if i % 10 else i

    results = reader.read_all(given(), Preprocessing(4, 3, (0,) * 3, (1,) * 3), prefetch=6)
    values = []
    for _, pixels in results:
        values.append(pixels if isinstance(pixels, Exception) else int(pixels[0, 0, 0]))
        assert len(begun) <= len(values) + 6
    assert [v if isinstance(v, int) else None for v in values] == [
        i if i % 10 else None for i in range(40)
    ]
