"""Folders of images and masks."""

import io

import jax
import numpy as np
import PIL.Image
import pytest

from rrd_jax import data, errors
from rrd_jax.data import masks
from rrd_jax.data.augment import crops
from rrd_jax.data.images import transforms
from rrd_jax.data.masks import decoding
from rrd_jax.data.masks.feed import MaskedSplit
from tests.data import folders, masked

_IMAGES = 30


def _open(root):
    return masks.open_folder(str(root.parent / "index"), str(root))


def _names(examples):
    return [example["file_name"].decode() for example in examples]


def _saved(pixels, kind="PNG", **options):
    file = io.BytesIO()
    image = pixels if isinstance(pixels, PIL.Image.Image) else PIL.Image.fromarray(pixels)
    image.save(file, kind, **options)
    return file.getvalue()


def _place_by_split(root):
    masked.fill(root / "train", 20)
    masked.fill(root / "val", 10, start=20)


def _place_below_folders(root):
    masked.fill(root, 20, "images/training", "annotations/training")
    masked.fill(root, 10, "images/validation", "annotations/validation", start=20)


def _place_with_suffix(root):
    masked.fill(root, _IMAGES)
    for path in (root / "masks").iterdir():
        path.rename(root / "masks" / f"{path.stem}_mask.png")


def _place_side_by_side(root):
    _place_with_suffix(root)
    for path in (root / "masks").iterdir():
        path.rename(root / "images" / path.name)


@pytest.mark.parametrize(
    ("place", "train"),
    [
        (lambda root: masked.fill(root, _IMAGES), None),
        (_place_by_split, 20),
        (_place_below_folders, 20),
        (_place_with_suffix, None),
        (_place_side_by_side, None),
    ],
)
def test_images_and_masks_are_paired_in_each_layout(place, train, tmp_path):
    place(tmp_path / "set")
    opened = _open(tmp_path / "set")
    parts = [opened.examples(name) for name in ("train", "test")]
    assert sum(map(len, parts)) == _IMAGES
    assert train in (None, len(parts[0]))
    for example in (example for part in parts for example in part):
        number = int(example["file_name"].decode().rpartition("/")[2].removesuffix(".png"))
        np.testing.assert_array_equal(decoding.decode(example["mask"]), masked.indices_of(number))
        assert "mask" not in example["file_name"].decode()
    assert opened.num_classes == 4
    assert not opened.summary(*parts).warnings


_STEPS = np.arange(16, dtype=np.uint8).reshape(4, 4)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (masked.encoded(_STEPS), _STEPS),
        (masked.encoded(_STEPS, mode="P"), _STEPS),
        (masked.encoded(_STEPS, bits=4), _STEPS),
        (masked.encoded(_STEPS % 4, bits=2), _STEPS % 4),
        (_saved(PIL.Image.fromarray(_STEPS % 2 * 255).convert("1")), _STEPS % 2),
        (_saved(_STEPS.astype(np.uint16)), _STEPS),
        (masked.encoded(_STEPS, "TIFF"), _STEPS),
        (masked.encoded(_STEPS, "BMP"), _STEPS),
    ],
    ids=["gray", "palette", "4 bits", "2 bits", "1 bit", "16 bits", "TIFF", "BMP"],
)
def test_masks_are_decoded_to_stored_indices(content, expected):
    np.testing.assert_array_equal(decoding.decode(content), expected)


_OBLONG = masked.indices_of(3)


def _turned(kind, orientation, pixels):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return _saved(pixels, kind, exif=exif)


@pytest.mark.parametrize(
    ("image", "mask", "reason"),
    [
        (None, b"", "empty file"),
        (None, b"no image", "not an image"),
        (None, masked.encoded(_OBLONG)[:60], "file"),
        (None, masked.image_of(_OBLONG % 5), "a color mask (RGB)"),
        (None, _saved(PIL.Image.fromarray(_OBLONG).convert("LA")), "a color mask (LA)"),
        (None, _saved(_OBLONG, "JPEG"), "a mask in format JPEG, which may change class indices"),
        (None, _saved(_OBLONG, "GIF"), "a mask in format GIF, which may change class indices"),
        (None, _saved(_OBLONG.astype(np.uint16) + 300), "class index 555 in a mask of"),
        (None, _saved(_OBLONG.astype(np.float32), "TIFF"), "32-bit pixels"),
        (None, masked.encoded(np.full((12, 16), 255)), "all pixels are 255, without a class"),
        (None, masked.encoded(np.full((12, 16), 7)), "class index 7, but there are 4 class names"),
        (None, masked.encoded(_OBLONG[:8]), "a mask of 16x8 pixels for an image of 16x12"),
        (b"", None, "empty file"),
        (_saved(np.zeros((12, 16, 3), np.uint8))[:50], None, "file"),
        (
            _turned("JPEG", 6, np.zeros((12, 16, 3), np.uint8)),
            None,
            "a mask of 16x12 pixels for an image of 12x16, which its EXIF orientation turns",
        ),
        (None, ..., "no mask"),
        (..., None, "a mask without an image"),
    ],
)
def test_unusable_files_are_named_and_counted(image, mask, reason, tmp_path):
    root = masked.fill(tmp_path / "set", 30)
    folders.put(root / "classes.txt", b"ground\ncat\ndog\nbird\n")
    for folder, content in (("images", image), ("masks", mask)):
        path = root / folder / "3.png"
        if content is ...:
            path.unlink()
        elif content is not None:
            path.write_bytes(content)
    opened = _open(root)
    parts = [opened.examples(name) for name in ("train", "test")]
    assert sum(map(len, parts)) == 29
    summary = opened.summary(*parts)
    ((path, message),) = summary.details["skipped"].items()
    assert path in ("images/3.png", "masks/3.png")
    assert reason in message
    assert "\n" not in message
    assert summary.warnings[0].startswith("1 images or masks")
    assert masks.problems(str(tmp_path / "index"), str(root)) == {path: message}


def test_masks_and_images_with_an_orientation_are_upright(tmp_path):
    root = masked.fill(tmp_path / "set", 30)
    upright = masked.indices_of(5)
    stored = np.ascontiguousarray(np.rot90(upright))
    for folder, pixels in (("images", stored % 5 * 50), ("masks", stored)):
        (root / folder / "5.png").write_bytes(_turned("PNG", 6, pixels))
    opened = _open(root)
    parts = [opened.examples(name) for name in ("train", "test")]
    example = next(e for p in parts for e in p if e["file_name"] == b"images/5.png")
    np.testing.assert_array_equal(decoding.decode(example["mask"]), upright)
    np.testing.assert_array_equal(transforms.decode(example["image"], 1)[..., 0], upright % 5 * 50)
    assert "1 images or masks" in opened.summary(*parts).warnings[0]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no image with a mask; expected ROOT/images/NAME"),
        ({"images/a.png": None}, r"has no image with a mask \(images/a.png: no mask\)"),
        ({"labels/a.txt": b"0 0.5", "images/a.png": None}, "no image with a mask"),
        ({"classes.txt": b"one\n"}, "has 1 class names, but must have from 2 to 255"),
        ({"classes.txt": b"one\n\ntwo\n"}, "has a blank name for label 1 of 3"),
        ({"classes.json": b'{"0": "a", "2": "b"}'}, "the labels are 0, 2"),
        (
            {"classes.json": b'{"0": "a", "1": "b", "255": "void"}'},
            "255 .*without 255, which marks",
        ),
        ({"classes.json": b"[1"}, "has no valid class names"),
        ({"classes.json": b'["a", "b"]', "classes.txt": b"a\nb"}, "several files of class names"),
    ],
)
def test_unusable_folders_are_refused_in_one_line(files, message, tmp_path):
    (tmp_path / "set").mkdir()
    for name, content in files.items():
        folders.put(tmp_path / "set" / name, content)
    with pytest.raises(errors.InputError, match=message) as caught:
        _open(tmp_path / "set")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: [path.write_bytes(b"") for path in (root / "masks").iterdir()], "30 of 30"),
        (
            lambda root: [
                path.write_bytes(masked.encoded(np.full((12, 16), i % 2 * 255)))
                for i, path in enumerate((root / "masks").iterdir())
            ],
            "15 of 30 images with masks cannot be used",
        ),
        (
            lambda root: [
                path.write_bytes(masked.encoded(np.eye(12, 16) * 255))
                for path in (root / "masks").iterdir()
            ],
            "only class index 0, .* 255 stands for no class: if it is a class here, renumber it",
        ),
        (
            lambda root: (root / "classes.txt").write_text("a\nb\n"),
            r"class index 3, but there are 2 class names",
        ),
        (
            lambda root: masked.fill(root / "val", 2),
            "has images in folders of splits .* and images outside of them",
        ),
    ],
)
def test_sets_with_many_unusable_masks_are_refused(change, message, tmp_path):
    root = masked.fill(tmp_path / "set", 30)
    change(root)
    with pytest.raises(errors.InputError, match=message) as caught:
        _open(root)
    assert "\n" not in str(caught.value)


def test_a_changed_mask_is_refused_when_it_is_read(tmp_path):
    root = masked.fill(tmp_path / "set", 30)
    examples = _open(root).examples("train")
    name = examples[0]["file_name"].decode().replace("images", "masks")
    (root / name).write_bytes(masked.encoded(masked.indices_of(99)))
    with pytest.raises(errors.InputError, match=f"{name} has changed"):
        examples[0]


def test_the_version_depends_on_masks_and_class_names(tmp_path):
    root = masked.fill(tmp_path / "set", 30)
    versions = {_open(root).version}
    (root / "classes.txt").write_text("a\nb\nc\nd\n")
    versions.add(_open(root).version)
    (root / "masks" / "0.png").write_bytes(masked.encoded(masked.indices_of(99)))
    versions.add(_open(root).version)
    assert len(versions) == 3


@pytest.mark.parametrize(
    "transform",
    [
        lambda image, **k: transforms.evaluation_view(image, 24, None, **k),
        lambda image, **k: transforms.evaluation_view(image, 10, None, **k),
        lambda image, **k: transforms.evaluation_view(image, 20, 30, **k),
        lambda image, **k: transforms.evaluation_view(image, 9, 11, **k),
        *(
            lambda image, seed=seed, **k: transforms.random_resized_crop(
                np.random.default_rng(seed), image, 21, **k
            )
            for seed in range(4)
        ),
    ],
)
def test_an_image_and_its_mask_receive_the_same_transformation(transform):
    indices = np.kron(np.array([[1, 2, 3], [3, 1, 2]]), np.ones((10, 11))).astype(np.uint8)
    mask = transform(indices[..., None], is_mask=True)
    image = transform(indices[..., None] * 60).astype(int)
    assert mask.shape == image.shape
    expected = np.where(mask == 255, 0, mask.astype(int) * 60)
    # Interpolated pixels at the borders of classes lie between the colors of both.
    assert (np.abs(image - expected) < 30).mean() > 0.85
    assert set(np.unique(mask)) <= {1, 2, 3, 255}


@pytest.mark.parametrize("crop", [crops.crop_flip(3, True), crops.resized_crop(0.2, True)])
def test_device_crops_transform_masks_like_images(crop):
    indices = np.kron(np.array([[1, 2], [3, 1]]), np.ones((12, 12))).astype(np.uint8)
    numbers = jax.vmap(crop.choose)(jax.random.split(jax.random.key(0), 16))
    stack = np.repeat(indices[None], 16, 0)
    mask = np.asarray(crop.cut_masks(numbers, stack))
    image = np.asarray(crop.cut(numbers, stack[..., None] * 60))[..., 0].astype(int)
    expected = np.where(mask == 255, 0, mask.astype(int) * 60)
    assert (np.abs(image - expected) < 30).mean() > 0.95
    assert set(np.unique(mask)) <= {1, 2, 3, 255}
    assert len(np.unique(mask, axis=0)) > 8


def test_batches_of_all_processes_hold_all_images_once(tmp_path):
    opened = _open(masked.fill(tmp_path / "set", 31))
    split = MaskedSplit(opened.examples("train"), 16, 3)
    batches = list(split.batches(8))
    parts = [list(split.batches(8, (i, 2))) for i in range(2)]
    for name, shape in (("image", (16, 16, 3)), ("mask", (16, 16))):
        array = np.concatenate([batch[name] for batch in batches])
        assert array.shape[1:] == shape
        assert len(array) == 8 * len(batches)
        joined = np.concatenate([b[name] for pair in zip(*parts, strict=True) for b in pair])
        np.testing.assert_array_equal(array, joined)
    assert (batches[-1]["mask"][len(split) % 8 - 8 :] == 255).all()
    image, mask = split.read(0)["image"], split.read(0)["mask"]
    # Rows above and below the image have no class.
    assert (mask[:2] == 255).all()
    np.testing.assert_array_equal(image[..., 0][mask != 255], mask[mask != 255] * 50)


def test_a_folder_of_masks_trains_without_them(tmp_path):
    root = masked.fill(tmp_path / "set", 30)
    fields = {"manual_dir": str(root), "dir": str(tmp_path / "index"), "use_labels": False}
    dataset = data.load(data.Source("mask_folder", image_size=16, test_split="test", **fields))
    assert len(dataset.train) + len(dataset.test) == 30
    assert all(b"images/" in example["file_name"] for example in dataset.train.examples)
    assert dataset.num_classes == 0
    as_images = data.load(data.Source("image_folder", image_size=16, **fields))
    assert any("holds 30 masks, which are used as images" in w for w in as_images.summary.warnings)
    with pytest.raises(errors.InputError, match=r"set data\.use_labels=False"):
        data.load(data.Source("mask_folder", **fields | {"use_labels": True}))
