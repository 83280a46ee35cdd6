"""Partially decoded JPEGs compared with whole ones, intact and damaged."""

import functools
import io

import cv2
import numpy as np
import PIL.Image
import pytest

from rrd_jax import data, errors
from rrd_jax.data import dataset
from rrd_jax.data.images import decoding, partial_decoding, transforms

_SAMPLINGS = ("444", "422", "420", "411")
needs_codec = pytest.mark.skipif(not partial_decoding.is_installed(), reason="needs nvimgcodec")


def _photograph(height, width, seed=0):
    """Returns an image with smooth colors, an edge and noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 5, 3), np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(float)
    image[height // 3 : height // 2, width // 4 :] += 60
    return np.clip(image + rng.normal(size=image.shape) * 9, 0, 255).astype(np.uint8)


def _jpeg(height=117, width=149, sampling="420", seed=0, **options):
    flags = [cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_SAMPLING_FACTOR]
    flags.append(getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{sampling}"))
    for name, value in options.items():
        flags += [getattr(cv2, f"IMWRITE_JPEG_{name.upper()}"), value]
    return cv2.imencode(".jpg", _photograph(height, width, seed), flags)[1].tobytes()


def _encode_with_pillow(mode, **options):
    file = io.BytesIO()
    PIL.Image.fromarray(_photograph(117, 149)).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def _rotated(orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return decoding.Upright(_encode_with_pillow("RGB", exif=exif))


def _crop(content, key, *, decode_crop_only, channels=3):
    example = {"image": content, "label": 0}
    make_rng = functools.partial(np.random.default_rng, key)
    return transforms.random_crop_or_black(
        example, 0, channels, 48, 0.08, make_rng, decode_crop_only=decode_crop_only
    )


def _assert_same_crops(content, count=12, channels=3):
    for seed in range(count):
        expected, actual = (
            _crop(content, (seed, 5), decode_crop_only=decode_crop_only, channels=channels)
            for decode_crop_only in (False, True)
        )
        np.testing.assert_array_equal(actual, expected)


def _crop_of_november_2026(content, key, size=48):
    """Returns the crop as in November 2026, when OpenCV always decoded whole images."""
    rng = np.random.default_rng(key)
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    height, width = image.shape[:2]
    for _ in range(10):
        area = height * width * rng.uniform(0.08, 1.0)
        aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < h <= height and 0 < w <= width:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            break
    part = image[top : top + h, left : left + w]
    method = cv2.INTER_AREA if 2 * size <= min(h, w) else cv2.INTER_LINEAR
    scaled = cv2.resize(part, (size, size), interpolation=method)
    return scaled if rng.random() >= 0.5 else scaled[:, ::-1]


@pytest.mark.parametrize("decode_crop_only", [False, pytest.param(True, marks=needs_codec)])
@pytest.mark.parametrize("sampling", _SAMPLINGS)
def test_crops_are_bit_identical_to_those_of_november_2026(sampling, decode_crop_only):
    content = _jpeg(sampling=sampling)
    for seed in range(10):
        crop = _crop(content, (seed, 1), decode_crop_only=decode_crop_only)
        np.testing.assert_array_equal(crop, _crop_of_november_2026(content, (seed, 1)))


@needs_codec
@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("sampling", _SAMPLINGS)
def test_partial_decoding_equals_a_slice_of_the_whole_image(sampling, progressive):
    content = _jpeg(sampling=sampling, progressive=progressive, rst_interval=3)
    image, jpeg = transforms.decode(content, 3), partial_decoding.open_jpeg(content, 3)
    assert jpeg.shape == image.shape
    rng = np.random.default_rng(0)
    for _ in range(40):
        top, left = (int(rng.integers(size - 32)) for size in image.shape[:2])
        bottom, right = (
            int(rng.integers(first + 32, size)) + 1
            for first, size in zip((top, left), image.shape, strict=False)
        )
        part = jpeg[top:bottom, left:right]
        np.testing.assert_array_equal(part, image[top:bottom, left:right])


@needs_codec
@pytest.mark.parametrize("orientation", range(1, 9))
def test_partial_decoding_of_rotated_images_equals_a_slice_of_the_whole_image(orientation):
    content = _rotated(orientation)
    jpeg = partial_decoding.open_jpeg(content, 3)
    assert jpeg.shape == ((149, 117, 3) if orientation > 4 else (117, 149, 3))
    image = transforms.decode(content, 3)
    np.testing.assert_array_equal(jpeg[5:70, 20:110], image[5:70, 20:110])
    _assert_same_crops(content)
    # Images of prepared data sets are decoded as stored.
    _assert_same_crops(bytes(content))


@needs_codec
@pytest.mark.parametrize(
    "content",
    [
        *(pytest.param(_jpeg(h, w), id=f"{h}x{w}") for h, w in [(1, 1), (9, 7), (33, 40), (8, 90)]),
        pytest.param(_encode_with_pillow("L"), id="grey"),
        pytest.param(_encode_with_pillow("CMYK"), id="CMYK"),
        pytest.param(_encode_with_pillow("RGB", keep_rgb=True), id="RGB"),
        pytest.param(transforms.encode_png(_photograph(50, 60)), id="PNG"),
        pytest.param(_photograph(50, 60), id="array"),
    ],
)
def test_crops_of_other_images_do_not_depend_on_partial_decoding(content):
    _assert_same_crops(content)
    _assert_same_crops(content, count=3, channels=1)
    if isinstance(content, bytes):
        _assert_same_crops(decoding.Upright(content))


@needs_codec
@pytest.mark.filterwarnings("ignore")
def test_crops_of_damaged_files_do_not_depend_on_partial_decoding(monkeypatch, capfd):
    monkeypatch.setattr(transforms, "_MAX_FAILURES", 10**9)
    rng, jpeg = np.random.default_rng(0), _jpeg(120, 160, rst_interval=0)
    files = [jpeg[:n] for n in (2, 20, 400, len(jpeg) // 2, len(jpeg) - 2)]
    files += [jpeg[: len(jpeg) // 2] + bytes(2000), jpeg + b"garbage", jpeg[:-2]]
    for _ in range(15):
        damaged = bytearray(jpeg)
        for position in rng.integers(2, len(jpeg), 3):
            damaged[position] = rng.integers(256)
        files.append(bytes(damaged))
    for content in files:
        _assert_same_crops(content, count=3)
        _assert_same_crops(decoding.Upright(content), count=3)
    assert "ERROR" not in capfd.readouterr().err


def _source(**fields):
    return data.Source(image_size=48, resize=50, augment="random_resized", **fields)


def test_a_missing_decoder_is_refused_unless_the_decoder_is_auto(monkeypatch):
    monkeypatch.setattr(partial_decoding, "_PACKAGE", "nvidia.missing")
    with pytest.raises(errors.InputError, match=r"data.decoder is nvimgcodec.*pip install"):
        dataset._decodes_crops_only(_source(decoder="nvimgcodec"))
    assert not dataset._decodes_crops_only(_source(decoder="auto"))
