"""Image folders without labels."""

import os

import pytest

from rrd_jax import errors
from rrd_jax.data import folder
from rrd_jax.data.folder import inspection
from tests.data.folders import encoded, fill, put
from tests.data.folders import load as load_labelled


def load(root, **options):
    return load_labelled(root, **{"use_labels": False, **options})


@pytest.fixture
def tree(tmp_path):
    """A folder of flat and nested images in several formats, ten of them damaged."""
    root = tmp_path / "my images"
    for i in range(30):
        put(root / f"flat {i}.jpg")
        put(root / f"a b/{i}.png", encoded("PNG"))
        put(root / "a b" / "deep" / "er" / f"ü{i}.webp", encoded("WEBP", lossless=True))
    put(root / "notes.txt", b"no image")
    for i in range(10):
        put(root / "broken" / f"{i}.jpg", encoded()[: 20 + i])
    return root


def _names(*splits):
    return {os.fsdecode(e["file_name"]) for split in splits for e in split.examples}


def _messages(dataset):
    return "\n".join([*dataset.summary.lines, *dataset.summary.warnings])


def test_images_are_read_at_any_depth_and_broken_files_are_reported(tree):
    dataset = load(tree)
    assert (dataset.num_classes, dataset.class_names, dataset.labelled) == (0, (), False)
    assert len(dataset.train) + len(dataset.test) == 90
    assert 1 <= len(dataset.test) <= 24
    names = _names(dataset.train, dataset.test)
    assert {"flat 0.jpg", "a b/0.png", "a b/deep/er/ü0.webp"} <= names
    assert dataset.train.images.shape == (len(dataset.train), 8, 8, 3)
    assert not dataset.train.labels.any()
    messages = _messages(dataset)
    assert "without labels" in messages
    assert "WEBP 30" in messages
    assert "11 of the files in" in messages
    assert "broken/0.jpg" in messages
    assert set(dataset.summary.details["skipped"]) >= {f"broken/{i}.jpg" for i in range(10)}


def test_added_images_are_reported_and_other_images_keep_their_split(tree, capsys):
    before = load(tree)
    names = _names(before.train), _names(before.test)
    assert "last inspection" not in capsys.readouterr().out
    for i in range(20):
        put(tree / "new" / f"{i}.png", encoded("PNG"))
    (tree / "flat 0.jpg").unlink()
    after = load(tree)
    assert "20 added, 1 removed" in capsys.readouterr().out
    for old, new in zip(names, (after.train, after.test), strict=True):
        expected = old - {"flat 0.jpg"}
        assert {name for name in _names(new) if not name.startswith("new/")} == expected
    assert before.version != after.version


def test_max_images_selects_a_stable_subset_and_keeps_the_cache(tree, monkeypatch):
    # Simulates old files.
    monkeypatch.setattr(inspection, "_TIMESTAMP_MARGIN", -3600e9)
    subset = load(tree, max_images=40)
    count = len(subset.train) + len(subset.test)
    # Some of the 40 images are broken.
    assert 30 <= count <= 40
    dataset = load(tree)
    assert _names(subset.train) <= _names(dataset.train)
    assert _names(subset.test) <= _names(dataset.test)
    assert _names(load(tree, max_images=40).train) == _names(subset.train)
    check_file, checked = inspection.check_file, []

    def recording_check(root, file):
        checked.append(file.path)
        return check_file(root, file)

    monkeypatch.setattr(inspection, "check_file", recording_check)
    load(tree)
    # Broken files are checked again because they may have been repaired.
    assert {os.path.dirname(path) for path in checked} == {"broken"}


def test_splits_equal_those_of_a_labelled_folder(tmp_path):
    fill(tmp_path / "tree")
    labelled, unlabelled = load_labelled(tmp_path / "tree"), load(tmp_path / "tree")
    assert _names(labelled.test) == _names(unlabelled.test)
    fill(tmp_path / "split" / "train", ("x",), 12)
    fill(tmp_path / "split" / "val", ("x",), 4)
    dataset = load(tmp_path / "split")
    assert (len(dataset.train), len(dataset.test)) == (12, 4)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": b"no image"}, "has no images"),
        ({"a.jpg": None}, "too few for a split 'test'"),
        ({"a.jpg": None, "b.jpg": b"", "c.png": b""}, "2 of 3 images cannot be read"),
        ({}, "at any depth"),
    ],
)
def test_unusable_folders_are_refused(tmp_path, files, message):
    for name, content in files.items():
        put(tmp_path / "tree" / name, content)
    with pytest.raises(errors.InputError, match=message):
        load(tmp_path / "tree")


def test_an_interrupted_inspection_keeps_its_results(tmp_path, monkeypatch):
    root = tmp_path / "tree"
    for i in range(40):
        put(root / f"{i}.jpg")
    monkeypatch.setattr(inspection, "_CHUNK_SIZE", 10)
    monkeypatch.setattr(inspection, "_SAVE_INTERVAL", 0.0)
    # Simulates old files.
    monkeypatch.setattr(inspection, "_TIMESTAMP_MARGIN", -3600e9)
    check_file, checked = inspection.check_file, []

    def recording_check(root, file):
        checked.append(file.path)
        if len(checked) == 25:
            raise KeyboardInterrupt
        return check_file(root, file)

    monkeypatch.setattr(inspection, "check_file", recording_check)
    with pytest.raises(KeyboardInterrupt):
        load(root)
    assert folder.index_path(str(tmp_path / "index"), str(root)).exists()
    first = len(checked)
    dataset = load(root)
    assert len(checked) - first < 40
    assert len(dataset.train) + len(dataset.test) == 40
    checked.clear()
    load(root)
    assert not checked
