"""Images that `prepare --resize` scales down, and the records of their size."""

import io

import numpy as np
import PIL.Image
import pytest

from rrd_jax import data
from rrd_jax.data.builders import resized
from rrd_jax.data.images import decoding, transforms
from tests.data import folders, published

_OPTIONS = {"image_size": 16, "resize": 18, "augment": "random_resized"}


def _by_name(split):
    return {e["file_name"]: (e["image"], e["label"]) for e in split}


def _rotated(orientation, size=(60, 40)):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return folders.encoded("JPEG", size, exif=exif)


@pytest.fixture
def pets(tmp_path):
    """A folder of images of several formats, sizes and orientations."""
    root = tmp_path / "My pets"
    folders.fill(root / "train")
    folders.fill(root / "test", number=2)
    folders.put(root / "train" / "cat" / "large.jpg", folders.encoded("JPEG", (60, 40)))
    folders.put(root / "train" / "cat" / "turned.jpg", _rotated(6))
    folders.put(root / "train" / "dog" / "small_turned.jpg", _rotated(8, (12, 10)))
    folders.put(root / "train" / "dog" / "large.png", folders.encoded("PNG", (40, 90)))
    folders.put(root / "train" / "dog" / "small.webp", folders.encoded("WEBP", (12, 10)))
    return root


def test_a_prepared_folder_keeps_its_splits_labels_and_names(pets, tmp_path, run):
    flags = ("--name=image_folder", f"--manual_dir={pets}", f"--data_dir={tmp_path}", "--resize=20")
    code, output, errors = run(*flags)
    assert code == 0, errors
    assert "with a shorter side of 20 pixels, JPEG of quality 95: " in output
    assert f"--config.data.name=my_pets_20 --config.data.dir={tmp_path}" in output
    before = data.load(data.Source("image_folder", manual_dir=str(pets), **_OPTIONS))
    after = data.load(data.Source("my_pets_20", dir=str(tmp_path), **_OPTIONS))
    assert after.class_names == before.class_names
    assert after.version.endswith("a shorter side of 20 pixels, JPEG of quality 95")
    assert after.summary.lines == (
        "images of 'my_pets_20' were prepared with a shorter side of 20 pixels, JPEG of quality 95",
    )
    for split in ("train", "test"):
        stored, files = (_by_name(getattr(x, split).examples) for x in (after, before))
        assert stored.keys() == files.keys()
        for name, (image, label) in stored.items():
            assert label == files[name][1]
            original, small = transforms.decode(files[name][0], 3), transforms.decode(image, 3)
            if min(original.shape[:2]) <= 20:
                np.testing.assert_array_equal(small, original)
                continue
            assert min(small.shape[:2]) == 20
            # JPEG halves the resolution of colors, which are noise here: compare brightness only.
            exact = decoding.to_grayscale(transforms.scale_short(original, 20))
            assert np.abs(decoding.to_grayscale(small).astype(float) - exact).mean() < 4
    assert next(after.train.train_batches(4, 0, 0, 1))["image"].shape == (4, 16, 16, 3)


def test_imagenet_is_resized_under_its_name_and_other_sizes_are_refused(tmp_path, run):
    expected = published.imagenet(tmp_path)
    flags = [f"--manual_dir={tmp_path}", f"--data_dir={tmp_path}", "--no_verify"]
    flags.append("--name=imagenet2012")
    code, _, errors = run(*flags, "--resize=20", "--quality=90")
    assert code == 0, errors
    source = {"dir": str(tmp_path), "test_split": "validation", **_OPTIONS}
    imagenet = data.load(data.Source("imagenet2012", **source))
    stored = {e["file_name"].decode(): e["image"] for e in imagenet.train.examples}
    assert stored.keys() == expected["train"].keys()
    assert {transforms.decode(image, 3).shape for image in stored.values()} == {(20, 27, 3)}
    assert "quality 90" in imagenet.version
    assert not [w for w in imagenet.summary.warnings if "scaled up" in w]
    large = data.load(data.Source("imagenet2012", **source | {"image_size": 32, "resize": 36}))
    (warning,) = [w for w in large.summary.warnings if "scaled up" in w]
    assert "data.resize is 36" in warning
    assert run(*flags, "--resize=20", "--quality=90")[0] == 0
    for other in (["--resize=30"], ["--resize=20"], []):
        code, _, errors = run(*flags, *other)
        assert code == 2
        assert "is prepared under" in errors
        assert "a shorter side of 20 pixels, JPEG of quality 90, not with" in errors
    code, _, errors = run("--name=cifar10", f"--data_dir={tmp_path}", "--resize=20")
    assert code == 2
    assert (
        "'cifar10' has images of 32x32 pixels; use --resize only for image_folder and imagenet2012"
        in errors
    )


def test_small_and_undecodable_images_stay_unchanged():
    resize, small = resized.Resize(30), folders.encoded("JPEG", (40, 30))
    for content in (b"gibber", small, small[:90]):
        assert resized.smaller(content, resize) == content
    grey = io.BytesIO()
    PIL.Image.new("L", (80, 60), 90).save(grey, "JPEG")
    assert transforms.decode(resized.smaller(grey.getvalue(), resize), 3).shape == (30, 40, 3)
    rotated = resized.smaller(decoding.Upright(_rotated(6)), resize)
    assert transforms.decode(rotated, 3).shape == (45, 30, 3)
