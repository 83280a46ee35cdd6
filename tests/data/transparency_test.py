"""Transparent images: the same composite in all formats, forms and paths."""

import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from rrd_jax import data, errors
from rrd_jax.data.builders import resized
from rrd_jax.data.feeds import feed
from rrd_jax.data.images import decoding, reader, transforms
from rrd_jax.data.model_info import Preprocessing, from_json
from tests.data import folders

_RGBA = np.random.default_rng(0).integers(0, 256, (24, 20, 4), np.uint8)
# Large areas in which colors are hidden.
_RGBA[:8, :, 3], _RGBA[16:, :, 3] = 0, 255
_IMAGE = PIL.Image.fromarray(_RGBA, "RGBA")
_DEEP = (*3 * [999], *3 * [1000], *6 * [256])
_COLORS = {"white": (255, 255, 255), "black": (0, 0, 0), "#0a80ff": (10, 128, 255)}


def _expected(image, background):
    """Returns Pillow's composite of an image."""
    rgba = image.convert("RGBA")
    below = PIL.Image.new("RGBA", rgba.size, (*_COLORS[background], 255))
    return np.asarray(PIL.Image.alpha_composite(below, rgba).convert("RGB"))


def _encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _palette():
    image = _IMAGE.convert("RGB").quantize(16)
    image.info["transparency"] = 3
    return image


_FILES = {
    "RGBA PNG": lambda: _encoded(_IMAGE, "PNG"),
    "grayscale PNG": lambda: _encoded(_IMAGE.convert("LA"), "PNG"),
    "palette PNG": lambda: _encoded(_palette(), "PNG"),
    "palette PNG with alphas": lambda: _encoded(
        _IMAGE.convert("RGB").quantize(16), "PNG", transparency=bytes(range(0, 256, 16))
    ),
    "PNG with a transparent color": lambda: _encoded(
        PIL.Image.new("RGB", (20, 24), (1, 2, 3)), "PNG", transparency=(1, 2, 3)
    ),
    "WebP": lambda: _encoded(_IMAGE, "WEBP"),
    "GIF": lambda: _encoded(_palette(), "GIF"),
    "TIFF": lambda: _encoded(_IMAGE, "TIFF"),
    "JPEG 2000": lambda: _encoded(_IMAGE, "JPEG2000"),
    "AVIF": lambda: _encoded(_IMAGE, "AVIF"),
}


@pytest.mark.parametrize("background", _COLORS)
@pytest.mark.parametrize("kind", _FILES)
def test_files_of_all_formats_are_composited_as_by_pillow(kind, background):
    content = _FILES[kind]()
    assert decoding.check(content).transparent
    expected = _expected(PIL.Image.open(io.BytesIO(content)), background)
    for encoded in (content, decoding.Upright(content)):
        actual = transforms.decode(encoded, 3, background)
        np.testing.assert_array_equal(actual, expected, strict=True)
        gray = transforms.decode(encoded, 1, background)
        np.testing.assert_array_equal(gray, decoding.to_grayscale(expected))


def test_composites_are_rounded_to_the_nearest_integer():
    color, alpha = np.mgrid[:256, :256]
    pixels = np.stack([color, color, color, alpha], -1).astype(np.uint8)
    for background, (_, value, _) in _COLORS.items():
        exact = (color * alpha + value * (255 - alpha)) / 255
        actual = reader.read(pixels, _preprocessing(background, size=256))[..., 1]
        np.testing.assert_array_equal(actual, np.floor(exact + 0.5))


def _preprocessing(background, size=24, channels=3):
    half = (0.5,) * channels
    return Preprocessing(size, channels, half, half, background=background)


@pytest.mark.parametrize(
    ("depth", "color_type", "samples", "key", "expected"),
    [
        (2, 0, b"\x10", (1,), [0, 255, 0, 0]),
        (4, 0, b"\x10\x20", (1,), [255, 0, 34, 0]),
        (16, 0, struct.pack(">4H", 999, 1000, 256, 0), (1000,), [3, 255, 1, 0]),
        (16, 2, struct.pack(">12H", *_DEEP), (1000,) * 3, [3, 255, 1, 1]),
    ],
)
def test_transparent_colors_of_png_are_those_of_its_bit_depth(
    depth, color_type, samples, key, expected
):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 4, 1, depth, color_type, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    content += chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    content += chunk(b"IDAT", zlib.compress(b"\0" + samples)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decoding.decode(content)[0, :, 0], expected)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "PA"])
def test_opaque_images_with_an_alpha_channel_do_not_change(kind):
    image = PIL.Image.fromarray(_RGBA[..., :3], "RGB").convert(kind.replace("A", "") or "L")
    opaque = image.convert(kind)
    read = reader.read(opaque, _preprocessing("black"))
    np.testing.assert_array_equal(read, reader.read(opaque, _preprocessing("none")))
    content = _encoded(opaque, "TIFF" if kind == "PA" else "PNG")
    assert not decoding.check(content).transparent
    for channels in (1, 3):
        np.testing.assert_array_equal(
            decoding.decode(content, channels), decoding.decode(content, channels, "none")
        )


@pytest.mark.parametrize("background", [*_COLORS, "none"])
def test_training_testing_and_prediction_have_the_same_pixels(background, tmp_path):
    content = _FILES["RGBA PNG"]()
    for split in ("train", "test"):
        for label in "ab":
            folders.put(tmp_path / "tree" / split / label / "1.png", content)
    options = {"image_size": 24, "background": background}
    folder = folders.load(tmp_path / "tree", **options)
    streamed = folders.load(tmp_path / "tree", feed="streamed", **options)
    expected = reader.read(content, _preprocessing(background))
    forms = [content, _IMAGE, _RGBA, _RGBA.transpose(2, 0, 1), _RGBA / 255.0]
    splits = [(form, label) for form in forms for label in (0, 1)]
    source = data.from_sources(splits, splits, data.Source(**options))
    for images in (folder.train.images, folder.test.images, source.train.images):
        for image in images:
            np.testing.assert_array_equal(image, expected)
    assert isinstance(streamed.test, feed.Streamed)
    for batch in (*streamed.train.train_batches(2, 0, 0, 1), *streamed.test.test_batches(2)):
        np.testing.assert_array_equal(batch["image"], [expected] * 2)
    for form in forms:
        np.testing.assert_array_equal(reader.read(form, _preprocessing(background)), expected)
    if background != "none":
        padded = transforms.pad_or_resize(_expected(_IMAGE, background), 24)
        np.testing.assert_array_equal(expected, padded)


def test_a_reduced_image_remains_transparent_without_hidden_colors():
    content = decoding.Upright(_FILES["RGBA PNG"]())
    small = resized.smaller(content, resized.Resize(10))
    for background in _COLORS:
        exact = transforms.scale_short(decoding.decode(content, 3, background), 10)
        actual = transforms.decode(small, 3, background).astype(int)
        assert np.abs(actual - exact).max() <= 2
    unchanged = resized.smaller(content, resized.Resize(30))
    np.testing.assert_array_equal(
        transforms.decode(unchanged, 3, "#0a80ff"), decoding.decode(content, 3, "#0a80ff")
    )


def test_transparent_images_of_a_folder_are_counted(tmp_path):
    folders.fill(tmp_path / "tree", number=12)
    for label in "ab":
        folders.put(tmp_path / "tree" / f"{label}/clear.png", _FILES["RGBA PNG"]())
    dataset = folders.load(tmp_path / "tree")
    assert dataset.summary.details["transparent"] == 2
    assert any("2 images with transparency: on white" in line for line in dataset.summary.lines)
    dropped = folders.load(tmp_path / "tree", background="none")
    assert any("data.background=none drops" in text for text in dropped.summary.warnings)
    assert dataset.pixels_version != dropped.pixels_version == dropped.version


def test_metadata_without_a_background_is_of_a_network_that_dropped_transparency():
    content = {"model": "resnet8", "num_classes": 2}
    content["preprocessing"] = _preprocessing("#0A80FF").to_json()
    assert from_json(content, "x").preprocessing.background == "#0a80ff"
    del content["preprocessing"]["background"]
    assert from_json(content, "x").preprocessing.background == "none"
    content["preprocessing"]["background"] = "red"
    with pytest.raises(errors.InputError, match="background is 'red', but must be white, black"):
        from_json(content, "x")


@pytest.mark.parametrize("text", ["red", "#12345", "#1234567", "(1, 2, 3)", "", "#gggggg"])
def test_other_colors_are_refused(text):
    with pytest.raises(
        errors.InputError, match=r"data\.background is .*, but must be white, black"
    ):
        data.Source(background=text)
