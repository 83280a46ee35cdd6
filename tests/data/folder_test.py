import collections
import json
import os
import pathlib
import pickle
import shutil
import time

import pytest
from tensorflow_datasets.core import hashing

from rrd_jax import data, errors
from rrd_jax.data import folder
from rrd_jax.data.folder import file_tree, inspection, layout
from tests.data.folders import encoded, fill, load, put


@pytest.fixture
def tree(tmp_path):
    """Folders of three classes with 40 images each."""
    fill(tmp_path / "tree", ("cat", "dog", "emu"), 40)
    return tmp_path / "tree"


def _names(split):
    return [os.fsdecode(example["file_name"]) for example in split.examples]


def _messages(dataset):
    return "\n".join([*dataset.summary.lines, *dataset.summary.warnings])


def test_images_are_read_unchanged_and_classes_are_named_after_folders(tree):
    put(tree / "dog" / "more" / "grey.JPG", encoded("PNG"))
    dataset = load(tree)
    assert dataset.class_names == ("cat", "dog", "emu")
    assert (dataset.num_classes, dataset.image_shape) == (3, (8, 8, 3))
    assert len(dataset.train) + len(dataset.test) == 121
    for part in (dataset.train, dataset.test):
        for example in part.examples:
            name = example["file_name"].decode()
            assert example["image"] == (tree / name).read_bytes()
            assert dataset.class_names[example["label"]] == name.split("/")[0]
    assert dataset.train.images.shape == (len(dataset.train), 8, 8, 3)
    # The folder is not copied.
    assert not (tree.parent / "index" / "image_folder").exists()


def test_without_split_folders_a_stable_tenth_is_held_out(tree):
    before = load(tree)
    assert 4 <= len(before.test) <= 24
    for i in range(10):
        put(tree / "cat" / f"added{i}.jpg")
    after = load(tree)
    assert len(after.train) + len(after.test) == 130
    for old, new in ((before.train, after.train), (before.test, after.test)):
        assert [name for name in _names(new) if "added" not in name] == _names(old)


def test_the_order_follows_the_key_hashes_of_tfds():
    for key in (b"cat/1.jpg", "h\u00e9/\u2603.png".encode()):
        assert layout.hasher("train")(key) == hashing.Hasher("train").hash_key(key)


def test_a_part_of_a_split_is_a_random_subset(tree):
    parts = load(tree, train_split="train[:70%]", test_split="train[70%:]")
    dataset = load(tree)
    assert _names(parts.train) + _names(parts.test) == _names(dataset.train)
    labels = collections.Counter(example["label"] for example in parts.test.examples)
    assert min(labels.values()) > 3


_SPLITS = [("val", "validation"), ("dev", "test"), ("validation", "test[:100%]")]


@pytest.mark.parametrize(("name", "split"), [*_SPLITS, ("Testing", "test")])
def test_split_folders_are_the_splits(tree, name, split):
    root = tree.parent / "split"
    shutil.move(tree, root / "train")
    put(root / name / "dog" / "x.png")
    dataset = load(root, test_split=split)
    assert len(dataset.train) == 120
    assert _names(dataset.test) == ["dog/x.png"]
    assert [example["label"] for example in dataset.test.examples] == [1]
    is_other = name in ("dev", "validation")
    assert (
        "split 'test' uses its validation" in _messages(dataset).replace("[:100%]", "")
    ) == is_other


def test_a_tenth_of_a_single_training_folder_is_held_out_for_a_test_split(tmp_path):
    fill(tmp_path / "root" / "train")
    dataset = load(tmp_path / "root")
    assert len(dataset.train) + len(dataset.test) == 60
    assert not set(_names(dataset.train)) & set(_names(dataset.test))
    assert "has no folder test or val next to train: a tenth" in _messages(dataset)
    parts = load(tmp_path / "root", train_split="train[:50%]", test_split="train[50%:]")
    assert (len(parts.train), len(parts.test)) == (30, 30)


def _pipe(root):
    os.mkfifo(root / "cat" / "pipe.jpg")


def _loops(root):
    (root / "cat" / "loop").symlink_to("..")
    (root / "dog" / "root").symlink_to(root.parent)
    (root / "alias").symlink_to("dog")
    (root / "itself").symlink_to("itself")


def _damage(name, content):
    return lambda root: put(root / "cat" / name, content)


_SKIPPED = {
    "a cut JPEG": (_damage("x.jpg", encoded()[:-60]), "cat/x.jpg: damaged"),
    "a note": (_damage("notes.txt", b"BM and P1"), "cat/notes.txt: not an image"),
    "a raw photograph": (_damage("x.nef", encoded("TIFF")), "raw camera file (.nef); convert it"),
    "an odd name": (_damage(os.fsdecode(b"\xff\n.jpg"), b""), r"cat/\xff\n.jpg: empty file"),
    "a pipe": (_pipe, "cat/pipe.jpg: a pipe, socket or device"),
    "a device": (lambda root: (root / "cat" / "x.jpg").symlink_to("/dev/zero"), "or device"),
    "a broken link": (
        lambda root: (root / "cat" / "x.jpg").symlink_to("no"),
        "a broken or circular link",
    ),
    "links in a circle": (_loops, "cat/loop: a link to the root, already read"),
    "a file of a terabyte": (
        lambda root: os.truncate((put(root / "cat" / "x.jpg"), root / "cat" / "x.jpg")[1], 2**40),
        "cat/x.jpg: file larger than 1 GB",
    ),
}


@pytest.mark.parametrize("kind", _SKIPPED)
def test_files_that_are_not_images_are_reported_and_skipped(tmp_path, kind):
    root = tmp_path / "root"
    change, message = _SKIPPED[kind]
    fill(root)
    change(root)
    dataset = load(root)
    assert len(dataset.train) + len(dataset.test) == 60
    assert dataset.class_names == ("cat", "dog")
    assert message in _messages(dataset)
    assert "\n" not in "".join(dataset.summary.warnings)
    assert folder.problems(str(tmp_path / "index"), str(root))


_ACCEPTED = {
    "a PNG without a suffix": _damage("x", encoded("PNG")),
    "a name of symbols and bytes": _damage(
        os.fsdecode("a\n'b' \"c\" \u2603".encode() + b"\xff.jpg"), encoded()
    ),
    "deep folders": _damage("/".join("d" * 200) + "/x.jpg", encoded()),
    "a link to an image": lambda root: (
        put(root.parent / "x.png", encoded("PNG")),
        (root / "cat" / "x.jpg").symlink_to(root.parent / "x.png"),
    ),
}


@pytest.mark.parametrize("kind", _ACCEPTED)
def test_images_with_unusual_names_are_used(tmp_path, kind):
    fill(tmp_path / "root")
    _ACCEPTED[kind](tmp_path / "root")
    dataset = load(tmp_path / "root")
    assert len(dataset.train) + len(dataset.test) == 61
    assert len(_names(dataset.train) + _names(dataset.test)) == 61


def test_hidden_files_and_system_files_are_ignored_silently(tmp_path):
    root = tmp_path / "root"
    fill(root)
    before = load(root)
    for name in (".git/x.jpg", "cat/._0.jpg", "cat/.DS_Store", "__MACOSX/cat/0.jpg", "Thumbs.db"):
        put(root / name, b"x")
    assert load(root).version == before.version
    assert load(root).summary.details == before.summary.details


def test_a_folder_named_train_next_to_other_classes_is_a_class(tmp_path):
    fill(tmp_path / "root", ("train", "bus"))
    dataset = load(tmp_path / "root")
    assert dataset.class_names == ("bus", "train")
    assert "train is also used as a class" in _messages(dataset)


def test_unicode_spellings_of_one_name_are_one_class(tmp_path):
    fill(tmp_path / "root" / "train", ("\u00e9", "dog"), 3)
    fill(tmp_path / "root" / "test", ("e\u0301", "dog"), 3)
    assert load(tmp_path / "root").class_names == ("dog", "\u00e9")


def _splits(*names, classes=("cat", "dog")):
    return lambda root: [fill(root / name, classes, 6) for name in names]


def _both(root):
    fill(root / "train")
    fill(root, ("emu",))


def _classes_first(root):
    for label in ("cat", "dog"):
        fill(root / label, ("train", "test"), 3)


def _other_classes(root):
    fill(root / "train")
    fill(root / "test", ("cat", "dogs"))


def _no_image_of_a_class(root):
    fill(root)
    put(root / "emu" / "0.jpg", b"")


def _many_damaged(root):
    fill(root, number=50)
    for i in range(5):
        put(root / "cat" / f"x{i}.jpg", b"")


_REFUSED = {
    "a missing folder": (
        lambda root: None,
        "does not exist; name the folder that holds one folder of",
    ),
    "an empty folder": (
        lambda root: root.mkdir(),
        "no images for split 'train'; expected ROOT/CLASS",
    ),
    "two folders of validation": (
        _splits("train", "val", "valid"),
        "train, val, valid; it must have train",
    ),
    "no training images": (_splits("test"), "has test; it must have train, optionally"),
    "no class folders": (
        lambda root: fill(root, ("",), 3),
        "3 images .* if it is the folder of one c",
    ),
    "splits and classes at one level": (_both, "of splits .train. next to other folders .emu."),
    "splits one level too low": (
        _splits("x/train", "x/test"),
        "has test, train in x, one level .*is it .*/x.$",
    ),
    "classes that hold splits": (_classes_first, "has test, train in cat, one level too low"),
    "a class of test images only": (_other_classes, "class 'dogs' .*did you mean 'dog'.*cat, dog"),
    "splits with unusual names": (
        _splits("train2017", "val_images"),
        "look like splits, not classes",
    ),
    "one class": (_splits(".", classes=("cat",)), "has only one class, 'cat', but needs"),
    "a class without readable images": (
        _no_image_of_a_class,
        "no image of emu can be read .emu/0.jpg: empty",
    ),
    "many damaged images": (_many_damaged, "5 of 105 images cannot be read .*repair or remove"),
    "few images": (
        lambda root: fill(root, number=2),
        "split 'test' .too few images for a held-out",
    ),
}


@pytest.mark.parametrize("kind", _REFUSED)
def test_a_folder_in_an_invalid_layout_is_refused(tmp_path, kind):
    change, message = _REFUSED[kind]
    change(tmp_path / "root")
    with pytest.raises(errors.InputError, match=message) as caught:
        load(tmp_path / "root")
    assert "\n" not in str(caught.value)


def test_an_empty_root_and_system_folders_are_refused():
    for path in ("", "/", "/proc"):
        with pytest.raises(errors.InputError, match="folder.*name the folder that holds"):
            data.load(data.Source("image_folder", manual_dir=path))


def test_errors_for_unreadable_files_and_folders_name_the_reason(tree, monkeypatch):
    def refuse(path, *options):
        raise PermissionError(13, "Permission denied", path)

    listing = file_tree.walk(str(tree))
    monkeypatch.setattr(os, "open", refuse)
    result = inspection.check_file(str(tree), listing.files[0])
    assert result.problem == "cannot be read (Permission denied)"
    monkeypatch.setattr(os, "scandir", refuse)
    message = "folder .*tree cannot be read .Permission denied.; make it readable"
    with pytest.raises(errors.InputError, match=message):
        file_tree.walk(str(tree))


def test_suspicious_folders_cause_warnings(tmp_path):
    root = tmp_path / "root"
    fill(root / "train", ("cat", "dog", "Dog"), 5)
    fill(root / "test", ("cat", "dog"), 5)
    shutil.copy(root / "train" / "cat" / "1.jpg", root / "test" / "dog" / "9.jpg")
    shutil.copy(root / "train" / "cat" / "1.jpg", root / "train" / "cat" / "8.jpg")
    for path in ("loose.jpg", "test.jpg", "train/loose.jpg"):
        put(root / path)
    (root / "test.jpg").rename(root / "val")
    (root / "train" / "yak").mkdir()
    dataset = load(root)
    messages = _messages(dataset)
    for part in (
        "images: 16 for training, 11 for testing, 3 classes (Dog, cat, dog), from",
        "0 ('Dog') to 6 ('dog'), mean 3.7, for testing",
        "images outside class folders are not used: 3 images (loose.jpg, train/loose.jpg, val)",
        "classes without images in split 'test': 1 of 3 (Dog)",
        "'Dog' and 'dog' differ only in case",
        "folders without images are ignored: train/yak",
        "1 of 11 test images are also training images (test/dog/9.jpg = train/cat/8.jpg)",
        "duplicate images within a split: 1",
        "images in more than one class: 1",
        "11 test images: the standard error of top-1 is 9.0 points at 90 %",
    ):
        assert part in messages
    assert (
        json.loads(json.dumps(dataset.summary.details))["duplicates"]["test images in train"] == 1
    )


def test_the_version_depends_only_on_names_and_contents(tree):
    before = load(tree).version
    for path in tree.rglob("*.jpg"):
        os.utime(path, ns=(1, 1))
    assert load(tree).version == before
    moved = tree.rename(tree.with_name("moved"))
    assert load(moved).version == before
    (moved / "cat" / "0.jpg").rename(moved / "cat" / "other.jpg")
    assert load(moved).version != before
    (moved / "cat" / "other.jpg").rename(moved / "cat" / "0.jpg")
    assert load(moved).version == before
    put(moved / "cat" / "0.jpg")
    assert load(moved).version != before


def test_inspected_files_are_cached_until_they_change(tree, monkeypatch):
    checked, check_file = [], inspection.check_file

    def recording_check(root, file):
        checked.append(file.path)
        return check_file(root, file)

    load(tree)
    (index,) = (tree.parent / "index").rglob("*.json")
    # Recently written files are not cached: they could change within the timestamp resolution.
    assert json.loads(index.read_text().split("\n")[0])["files"] == {}
    monkeypatch.setattr(inspection, "check_file", recording_check)
    # Simulates files that are a minute old.
    monkeypatch.setattr(inspection, "_TIMESTAMP_MARGIN", -60e9)
    first = load(tree)
    assert len(checked) == 120
    assert load(tree).version == first.version
    assert len(checked) == 120
    path, state = tree / "cat" / "0.jpg", (tree / "cat" / "0.jpg").stat()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    # The changed file keeps its size and modification time.
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert load(tree).version != first.version
    assert checked[120:] == ["cat/0.jpg"]
    index.write_text("[")
    assert load(tree).version != first.version
    assert len(checked) == 241
    # No index can be written below a file.
    (tree.parent / "file").write_text("")
    assert load(tree, dir=str(tree.parent / "file")).version == load(tree).version


@pytest.mark.parametrize("change", [pathlib.Path.unlink, put])
def test_an_image_that_changes_during_a_run_is_refused(tree, change):
    dataset = load(tree, feed="streamed", augment="random_resized", resize=9)
    for path in tree.rglob("*.jpg"):
        change(path)
    with pytest.raises(errors.InputError, match="image .*jpg .* since this run started; restore"):
        list(dataset.test.test_batches(4))


def test_an_image_that_fails_to_decode_is_reported_and_replaced_by_black(tmp_path, capsys):
    fill(tmp_path / "root")
    content = bytearray(encoded())
    tables = content.index(b"\xff\xc4")
    # These code lengths are invalid in a Huffman table.
    content[tables + 5 : tables + 21] = b"\xff" * 16
    put(tmp_path / "root" / "cat" / "x.jpg", bytes(content))
    dataset = load(tmp_path / "root")
    black = [i for i, name in enumerate(_names(dataset.train)) if name == "cat/x.jpg"]
    assert not dataset.train.images[black].any()
    assert "'cat/x.jpg'" in capsys.readouterr().err


def test_a_linked_class_is_a_class(tmp_path):
    fill(tmp_path / "root")
    fill(tmp_path / "elsewhere", ("emu",), 2)
    (tmp_path / "root" / "emu").symlink_to(tmp_path / "elsewhere" / "emu")
    assert load(tmp_path / "root").class_names == ("cat", "dog", "emu")


def test_a_large_folder_without_images_is_refused_early(tmp_path, monkeypatch):
    monkeypatch.setattr(inspection, "_MAX_LEADING_NON_IMAGES", 20)
    monkeypatch.setattr(inspection, "_CHUNK_SIZE", 10)
    for i in range(30):
        put(tmp_path / "root" / f"{i}.txt", b"text")
    with pytest.raises(errors.InputError, match="first 20 files"):
        load(tmp_path / "root")


def test_examples_of_a_folder_can_be_pickled(tree):
    source = load(tree).train.examples
    assert [dict(e) for e in pickle.loads(pickle.dumps(source))] == [dict(e) for e in source]


def test_many_classes_and_empty_folders_are_sorted_in_linear_time():
    classes = [f"c{i}" for i in range(20_000)]
    paths = [f"{split}/{name}/a.jpg" for split in ("train", "test") for name in classes]
    folders = ["train", "test", *(f"train/{name}" for name in classes)]
    folders += [f"train/empty{i}" for i in range(20_000)]
    start = time.process_time()
    plan = layout.arrange("/photos", paths, folders)
    assert time.process_time() - start < 5
    assert len(plan.classes) == 20_000
    assert any("empty0" in text for text in plan.warnings)
