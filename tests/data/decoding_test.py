import io
import struct
import zlib

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from rrd_jax import errors
from rrd_jax.data.images import decoding, transforms

_PIXELS = np.random.default_rng(0).integers(0, 256, (12, 10, 4), np.uint8)
_DEEP = np.random.default_rng(1).integers(0, 65536, (12, 10), np.uint16)


def _image(mode):
    """Returns an image of random pixels in a Pillow mode."""
    return PIL.Image.fromarray(_PIXELS, "RGBA").convert("RGB").convert(mode)


def _encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _transparent_palette():
    image = _image("P")
    image.info["transparency"] = 3
    return image


def _animation():
    frames = [PIL.Image.new("P", (10, 12), i) for i in range(3)]
    return _encoded(_image("P"), "GIF", save_all=True, append_images=frames)


def _decode_with_pillow(content):
    image = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(content)))
    return np.asarray(image.convert("RGB"))


_FILES = {
    "grey JPEG": lambda: _encoded(_image("L"), "JPEG"),
    "CMYK JPEG": lambda: _encoded(_image("CMYK"), "JPEG"),
    "grey PNG with alpha": lambda: _encoded(_image("LA"), "PNG"),
    "palette PNG with transparency": lambda: _encoded(_transparent_palette(), "PNG"),
    "RGBA PNG": lambda: _encoded(PIL.Image.fromarray(_PIXELS, "RGBA"), "PNG"),
    "WebP": lambda: _encoded(_image("RGB"), "WEBP"),
    "GIF": _animation,
    "BMP": lambda: _encoded(_image("RGB"), "BMP"),
    "CMYK TIFF": lambda: _encoded(_image("CMYK"), "TIFF"),
    "PPM": lambda: _encoded(_image("RGB"), "PPM"),
    "AVIF": lambda: _encoded(_image("RGB"), "AVIF"),
    "JPEG 2000": lambda: _encoded(_image("RGB"), "JPEG2000"),
    "JPEG with broken metadata": lambda: _encoded(
        _image("RGB"), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xffgarbage"
    ),
}


@pytest.mark.parametrize("kind", _FILES)
def test_files_of_all_formats_are_decoded_as_by_pillow(kind):
    content = _FILES[kind]()
    decoding.check(content)
    decoded = decoding.decode(content, background="none")
    # Different builds of libjpeg may round differently.
    np.testing.assert_allclose(
        decoded.astype(int),
        _decode_with_pillow(content),
        atol=3 * ("JPEG" in kind or kind == "AVIF"),
    )
    assert (decoded.dtype, decoded.shape) == (np.uint8, (12, 10, 3))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_rotated_as_by_pillow(kind, orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    content = _encoded(_image("RGB"), kind, exif=exif)
    np.testing.assert_allclose(
        decoding.decode(content).astype(int),
        _decode_with_pillow(content),
        atol=3 * (kind == "JPEG"),
    )
    # Images of prepared data sets are decoded as stored.
    if kind == "JPEG":
        assert transforms.decode(content, 3).shape == (12, 10, 3)
        upright = transforms.decode(decoding.Upright(content), 3)
        assert upright.shape == ((10, 12, 3) if orientation > 4 else (12, 10, 3))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_images_are_scaled_and_not_clipped(kind):
    decoded = decoding.decode(_encoded(PIL.Image.fromarray(_DEEP), kind))
    np.testing.assert_array_equal(decoded, np.repeat(_DEEP[..., None] >> 8, 3, -1))


def test_pillow_heif_reads_heic():
    heif = pytest.importorskip("pillow_heif")
    decoding._formats()
    image = _image("RGB").resize((64, 48))
    file = io.BytesIO()
    heif.from_pillow(image).save(file, quality=95)
    assert decoding.check(file.getvalue()) == ("HEIF", 64, 48, False)
    difference = decoding.decode(file.getvalue()).astype(int) - np.asarray(image)
    assert np.abs(difference).mean() < 30


def test_heic_without_pillow_heif_is_refused_with_the_install_command(monkeypatch):
    monkeypatch.setattr(decoding, "_formats", lambda: ("JPEG", "PNG"))
    with pytest.raises(errors.InputError, match=r"pip install 'rrd_jax\[heic\]'"):
        decoding.check(b"\0\0\0\x18ftypheic" + bytes(30))


def _png(width, height, rows=b"", depth=8):
    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def _flipped(content, position):
    return content[:position] + bytes([content[position] ^ 255]) + content[position + 1 :]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_png(100_000, 100_000), "claims 10000000000 pixels, more than the limit of 178,956,970"),
        # 60 bytes that claim to be 169 million pixels.
        (_png(13_000, 13_000), "damaged file"),
        (_png(3, 0), "damaged file|not an image"),
        (_encoded(_image("RGB"), "JPEG")[:-40], "damaged file|truncated"),
        (
            _encoded(_image("RGB"), "JPEG")[:-40] + bytes(400),
            "truncated file: the content ends in zeros",
        ),
        (_encoded(_image("RGB"), "PNG")[:-100], "damaged file"),
        (_flipped(_encoded(_image("RGB"), "PNG"), 100), "damaged file"),
        (_encoded(_image("RGB"), "WEBP")[:90], "damaged file|not an image"),
        (_encoded(_image("F"), "TIFF"), "32-bit pixels; convert"),
        (b"<html>not found</html>", "not an image"),
        (b"", "not an image"),
        # PostScript is a program.
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    ],
)
def test_unreadable_files_are_refused(content, message):
    with pytest.raises(errors.InputError, match=message):
        decoding.check(content)


def test_a_header_with_too_many_pixels_is_refused_in_any_source():
    for channels in (1, 3):
        with pytest.raises(errors.InputError, match="more than the limit"):
            transforms.decode(_png(100_000, 100_000), channels)
    with pytest.raises(errors.InputError, match="more than the limit"):
        transforms.stored_channels(_png(30_000, 30_000))
