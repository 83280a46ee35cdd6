"""Copies of data in buckets; a folder of this machine stands for the bucket."""

import hashlib
import os
import pathlib
import shutil

import pytest

from rrd_jax import buckets, data, errors
from rrd_jax.data import staging
from tests.data.folders import fill

_URL = "gs://photos-of-pets/all"


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The folder that stands for a bucket; `copied` lists the names of copied objects."""
    pytest.importorskip("gcsfs")
    root = tmp_path / "bucket"
    copied = []

    def place(path):
        return root / str(path).removeprefix("gs://photos-of-pets").strip("/")

    def entries(folder):
        files = filter(pathlib.Path.is_file, place(folder).rglob("*"))
        return {
            path.relative_to(place(folder)).as_posix(): buckets.Entry(
                path.stat().st_size, hashlib.md5(path.read_bytes()).hexdigest(), ""
            )
            for path in files
        }

    def download_file(source, target, entry, progress):
        copied.append(place(source).name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place(source), target)
        progress(entry.size)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    for name, function in {
        "check": lambda path: None,
        "entries": entries,
        "download_file": download_file,
    }.items():
        monkeypatch.setattr(buckets, name, function)
    fill(root / "all", ("cat", "dog"), 20)
    return root / "all", copied


def _load(place, **fields):
    return data.load(data.Source("image_folder", image_size=8, manual_dir=str(place), **fields))


def test_a_folder_in_a_bucket_is_copied_once_and_equals_the_folder_on_this_machine(bucket):
    folder, copied = bucket
    local, remote = _load(folder), _load(_URL)
    assert len(copied) == 40
    assert (remote.version, remote.class_names) == (local.version, local.class_names)
    assert remote.display_name == local.display_name
    assert _load(f"{_URL}/").version == local.version
    assert len(copied) == 40


def test_changed_added_and_deleted_objects_are_detected(bucket):
    folder, copied = bucket
    version = _load(_URL).version
    image = sorted(folder.rglob("*.*"))[0]
    content = image.read_bytes()
    copied.clear()
    image.write_bytes(sorted(folder.rglob("*.*"))[1].read_bytes())
    changed = _load(_URL).version
    image.rename(image.with_name(f"new_{image.name}"))
    renamed = _load(_URL).version
    assert copied == [image.name, f"new_{image.name}"]
    assert len({version, changed, renamed}) == 3
    image.with_name(f"new_{image.name}").rename(image)
    image.write_bytes(content)
    assert _load(_URL).version == version


def test_damaged_copies_and_remains_of_killed_programs_are_replaced(bucket):
    _folder, copied = bucket
    version = _load(_URL).version
    copies = staging.local_folder(buckets.path(_URL), "")
    image = sorted(copies.rglob("*.jpg"))[0]
    image.write_bytes(b"damaged")
    (copies / "cat" / "a.png.123.part").write_bytes(image.read_bytes())
    copied.clear()
    assert _load(_URL).version == version
    assert copied == [image.name]
    assert not list(copies.rglob("*.part"))


def test_a_copy_that_was_interrupted_is_continued(bucket, monkeypatch):
    _folder, copied = bucket
    download = buckets.download_file

    def interrupted(*arguments):
        if len(copied) == 9:
            raise errors.BucketError("gs://photos-of-pets cannot be reached")
        download(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(buckets, "download_file", interrupted)
        with pytest.raises(errors.BucketError, match="cannot be reached"):
            _load(_URL)
    _load(_URL)
    assert 40 <= len(copied) <= 40 + staging._THREADS


def test_a_disk_that_is_too_small_is_told_before_copying(bucket, monkeypatch, tmp_path):
    _, copied = bucket
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        errors.DiskError, match=r"must be copied to .*/scratch/gs/photos.* data.scr"
    ):
        _load(_URL, scratch=str(tmp_path / "scratch"))
    assert not copied


def test_missing_folders_and_invalid_names_are_refused_in_one_line(bucket):
    folder, copied = bucket
    with pytest.raises(errors.InputError, match="photos-of-pets/none has no files; correct"):
        _load("gs://photos-of-pets/none")
    with pytest.raises(errors.InputError, match="correct the path"):
        data.load(data.Source("wds:gs://photos-of-pets/all/{0..3}.tar"))
    (folder / "0.tar").touch()
    with pytest.raises(errors.InputError, match=r"there is no gs://.*/all/1.tar and 2 more"):
        data.load(data.Source("wds:gs://photos-of-pets/all/{0..3}.tar"))
    assert not copied
    entries = buckets.entries

    def colliding(path):
        return entries(path) | {"cat": buckets.Entry(1, "1", "")}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "entries", colliding)
        with pytest.raises(errors.InputError, match="its name is no path, or also the name of a"):
            _load(_URL)
    assert os.path.isdir(folder)
