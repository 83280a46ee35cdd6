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
    """Images flat and nested, of several formats, and ten that are broken."""
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


def _said(found):
    return "\n".join([*found.summary.lines, *found.summary.warnings])


def test_images_lie_anywhere_in_any_format_and_broken_ones_are_named(tree):
    found = load(tree)
    assert (found.num_classes, found.class_names, found.labelled) == (0, (), False)
    assert len(found.train) + len(found.test) == 90
    assert 1 <= len(found.test) <= 24
    names = _names(found.train, found.test)
    assert {"flat 0.jpg", "a b/0.png", "a b/deep/er/ü0.webp"} <= names
    assert found.train.images.shape == (len(found.train), 8, 8, 3)
    assert not found.train.labels.any()
    said = _said(found)
    assert "without labels" in said
    assert "WEBP 30" in said
    assert "11 of the files in" in said
    assert "broken/0.jpg" in said
    assert set(found.summary.figures["skipped"]) >= {f"broken/{i}.jpg" for i in range(10)}


def test_added_images_move_no_other_and_are_said(tree, capsys):
    before = load(tree)
    names = _names(before.train), _names(before.test)
    assert "last inspection" not in capsys.readouterr().out
    for i in range(20):
        put(tree / "new" / f"{i}.png", encoded("PNG"))
    (tree / "flat 0.jpg").unlink()
    after = load(tree)
    assert "20 added, 1 removed" in capsys.readouterr().out
    for old, new in zip(names, (after.train, after.test), strict=True):
        kept = old - {"flat 0.jpg"}
        assert {name for name in _names(new) if not name.startswith("new/")} == kept
    assert before.version != after.version


def test_a_cap_takes_the_same_images_and_forgets_none(tree, monkeypatch):
    monkeypatch.setattr(inspection, "_TIMESTAMP_MARGIN", -3600e9)  # as if the files were old
    some = load(tree, max_images=40)
    count = len(some.train) + len(some.test)
    assert 30 <= count <= 40  # broken ones are among the 40
    whole = load(tree)
    assert _names(some.train) <= _names(whole.train)
    assert _names(some.test) <= _names(whole.test)
    assert _names(load(tree, max_images=40).train) == _names(some.train)
    original, looks = inspection.check_file, []

    def look(root, file):
        looks.append(file.path)
        return original(root, file)

    monkeypatch.setattr(inspection, "check_file", look)
    load(tree)
    assert {os.path.dirname(path) for path in looks} == {"broken"}  # as they may be mended


def test_splits_are_those_of_a_folder_with_labels(tmp_path):
    fill(tmp_path / "tree")
    labelled, without = load_labelled(tmp_path / "tree"), load(tmp_path / "tree")
    assert _names(labelled.test) == _names(without.test)
    fill(tmp_path / "split" / "train", ("x",), 12)
    fill(tmp_path / "split" / "val", ("x",), 4)
    found = load(tmp_path / "split")
    assert (len(found.train), len(found.test)) == (12, 4)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": b"no image"}, "has no images"),
        ({"a.jpg": None}, "too few for a split 'test'"),
        ({"a.jpg": None, "b.jpg": b"", "c.png": b""}, "2 of 3 images cannot be read"),
        ({}, "at any depth"),
    ],
)
def test_folders_that_cannot_be_used_are_refused(tmp_path, files, message):
    for name, content in files.items():
        put(tmp_path / "tree" / name, content)
    with pytest.raises(errors.InputError, match=message):
        load(tmp_path / "tree")


def test_what_was_found_outlives_a_kill(tmp_path, monkeypatch):
    root = tmp_path / "tree"
    for i in range(40):
        put(root / f"{i}.jpg")
    monkeypatch.setattr(inspection, "_CHUNK_SIZE", 10)
    monkeypatch.setattr(inspection, "_SAVE_INTERVAL", 0.0)
    monkeypatch.setattr(inspection, "_TIMESTAMP_MARGIN", -3600e9)  # as if the files were old
    original, looks = inspection.check_file, []

    def look(*given):
        looks.append(given)
        if len(looks) == 25:
            raise KeyboardInterrupt
        return original(*given)

    monkeypatch.setattr(inspection, "check_file", look)
    with pytest.raises(KeyboardInterrupt):
        load(root)
    assert folder.index_path(str(tmp_path / "index"), str(root)).exists()
    first = len(looks)
    found = load(root)
    assert len(looks) - first < 40
    assert len(found.train) + len(found.test) == 40
    looks.clear()
    load(root)
    assert not looks
