import collections
import json
import os
import pathlib
import pickle
import shutil

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


def _said(found):
    return "\n".join([*found.summary.lines, *found.summary.warnings])


def test_images_are_read_as_they_are_and_classes_are_called_as_their_folders(tree):
    put(tree / "dog" / "more" / "grey.JPG", encoded("PNG"))
    found = load(tree)
    assert found.class_names == ("cat", "dog", "emu")
    assert (found.num_classes, found.image_shape) == (3, (8, 8, 3))
    assert len(found.train) + len(found.test) == 121
    for part in (found.train, found.test):
        for example in part.examples:
            name = example["file_name"].decode()
            assert example["image"] == (tree / name).read_bytes()
            assert found.class_names[example["label"]] == name.split("/")[0]
    assert found.train.images.shape == (len(found.train), 8, 8, 3)
    assert not (tree.parent / "index" / "image_folder").exists()  # no copy is made


def test_without_split_folders_a_tenth_is_for_testing_and_added_files_move_no_other(tree):
    before = load(tree)
    assert 4 <= len(before.test) <= 24
    for i in range(10):
        put(tree / "cat" / f"added{i}.jpg")
    after = load(tree)
    assert len(after.train) + len(after.test) == 130
    for old, new in ((before.train, after.train), (before.test, after.test)):
        assert [name for name in _names(new) if "added" not in name] == _names(old)


def test_the_order_is_a_hash_of_keys_as_tfds_has_it():
    for key in (b"cat/1.jpg", "h\u00e9/\u2603.png".encode()):
        assert layout.hasher("train")(key) == hashing.Hasher("train").hash_key(key)


def test_a_part_of_a_split_is_a_random_part(tree):
    parts = load(tree, train_split="train[:70%]", test_split="train[70%:]")
    whole = load(tree)
    assert _names(parts.train) + _names(parts.test) == _names(whole.train)
    labels = collections.Counter(example["label"] for example in parts.test.examples)
    assert min(labels.values()) > 3


_SPLITS = [("val", "validation"), ("dev", "test"), ("validation", "test[:100%]")]


@pytest.mark.parametrize(("name", "split"), [*_SPLITS, ("Testing", "test")])
def test_split_folders_are_the_splits(tree, name, split):
    root = tree.parent / "split"
    shutil.move(tree, root / "train")
    put(root / name / "dog" / "x.png")
    found = load(root, test_split=split)
    assert len(found.train) == 120
    assert _names(found.test) == ["dog/x.png"]
    assert [example["label"] for example in found.test.examples] == [1]
    is_other = name in ("dev", "validation")
    assert ("split 'test' uses its validation" in _said(found).replace("[:100%]", "")) == is_other


def test_train_alone_gives_a_tenth_away_if_a_test_split_is_asked_for(tmp_path):
    fill(tmp_path / "root" / "train")
    found = load(tmp_path / "root")
    assert len(found.train) + len(found.test) == 60
    assert not set(_names(found.train)) & set(_names(found.test))
    assert "has no folder test or val next to train: a tenth" in _said(found)
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
    "a raw photograph": (_damage("x.nef", encoded("TIFF")), "raw camera file (.nef): convert it"),
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
def test_what_is_no_image_is_named_and_left_out(tmp_path, kind):
    root = tmp_path / "root"
    change, message = _SKIPPED[kind]
    fill(root)
    change(root)
    found = load(root)
    assert len(found.train) + len(found.test) == 60
    assert found.class_names == ("cat", "dog")
    assert message in _said(found)
    assert "\n" not in "".join(found.summary.warnings)
    assert folder.problems(str(tmp_path / "index"), str(root))


_TAKEN = {
    "a PNG without a suffix": _damage("x", encoded("PNG")),
    "a name of signs and bytes": _damage(
        os.fsdecode("a\n'b' \"c\" \u2603".encode() + b"\xff.jpg"), encoded()
    ),
    "deep folders": _damage("/".join("d" * 200) + "/x.jpg", encoded()),
    "a link to an image": lambda root: (
        put(root.parent / "x.png", encoded("PNG")),
        (root / "cat" / "x.jpg").symlink_to(root.parent / "x.png"),
    ),
}


@pytest.mark.parametrize("kind", _TAKEN)
def test_an_image_counts_whatever_it_is_called(tmp_path, kind):
    fill(tmp_path / "root")
    _TAKEN[kind](tmp_path / "root")
    found = load(tmp_path / "root")
    assert len(found.train) + len(found.test) == 61
    assert len(_names(found.train) + _names(found.test)) == 61


def test_hidden_files_and_what_systems_leave_are_passed_over_in_silence(tmp_path):
    root = tmp_path / "root"
    fill(root)
    before = load(root)
    for name in (".git/x.jpg", "cat/._0.jpg", "cat/.DS_Store", "__MACOSX/cat/0.jpg", "Thumbs.db"):
        put(root / name, b"x")
    assert load(root).version == before.version
    assert load(root).summary.figures == before.summary.figures


def test_a_class_called_train_is_a_class_where_others_are_beside_it(tmp_path):
    fill(tmp_path / "root", ("train", "bus"))
    found = load(tmp_path / "root")
    assert found.class_names == ("bus", "train")
    assert "train is also used as a class" in _said(found)


def test_one_name_in_two_spellings_is_one_class(tmp_path):
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


def _much_damaged(root):
    fill(root, number=50)
    for i in range(5):
        put(root / "cat" / f"x{i}.jpg", b"")


_REFUSED = {
    "nothing there": (
        lambda root: None,
        "does not exist: name the folder that holds one folder of",
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
    "splits below": (
        _splits("x/train", "x/test"),
        "has test, train in x, one level .*is it .*/x.$",
    ),
    "classes that hold splits": (_classes_first, "has test, train in cat, one level too low"),
    "a class of test images only": (_other_classes, "class 'dogs' .*did you mean 'dog'.*cat, dog"),
    "splits by other names": (_splits("train2017", "val_images"), "look like splits, not classes"),
    "one class": (_splits(".", classes=("cat",)), "has only one class, 'cat', but needs"),
    "a class that is lost": (_no_image_of_a_class, "no image of emu can be read .emu/0.jpg: empty"),
    "much that is damaged": (_much_damaged, "5 of 105 images cannot be read .*repair or remove"),
    "few images": (
        lambda root: fill(root, number=2),
        "split 'test' .too few images for a held-out",
    ),
}


@pytest.mark.parametrize("kind", _REFUSED)
def test_a_folder_in_another_layout_says_which_one_is_needed(tmp_path, kind):
    change, message = _REFUSED[kind]
    change(tmp_path / "root")
    with pytest.raises(errors.InputError, match=message) as caught:
        load(tmp_path / "root")
    assert "\n" not in str(caught.value)


def test_no_root_and_the_systems_folders_are_refused():
    for place in ("", "/", "/proc"):
        with pytest.raises(errors.InputError, match="image folder '.*name the folder that holds"):
            data.load(data.Source("image_folder", manual_dir=place))


def test_what_may_not_be_read_is_said(tree, monkeypatch):
    def refuse(path, *options):
        raise PermissionError(13, "Permission denied", path)

    tree_found = file_tree.walk(str(tree))
    monkeypatch.setattr(os, "open", refuse)
    checked = inspection.check_file(str(tree), tree_found.files[0])
    assert checked.problem == "cannot be read (Permission denied)"
    monkeypatch.setattr(os, "scandir", refuse)
    message = "folder .*tree cannot be read .Permission denied.: make it readable"
    with pytest.raises(errors.InputError, match=message):
        file_tree.walk(str(tree))


def test_what_is_doubtful_is_warned_of(tmp_path):
    root = tmp_path / "root"
    fill(root / "train", ("cat", "dog", "Dog"), 5)
    fill(root / "test", ("cat", "dog"), 5)
    shutil.copy(root / "train" / "cat" / "1.jpg", root / "test" / "dog" / "9.jpg")
    shutil.copy(root / "train" / "cat" / "1.jpg", root / "train" / "cat" / "8.jpg")
    put(root / "train" / "loose.jpg")
    (root / "train" / "yak").mkdir()
    found = load(root)
    said = _said(found)
    for part in (
        "images: 16 for training, 11 for testing, 3 classes (Dog, cat, dog), from",
        "0 ('Dog') to 6 ('dog'), mean 3.7, for testing",
        "images outside class folders are not used: 1 image (train/loose.jpg)",
        "classes without images in split 'test': 1 of 3 (Dog)",
        "'Dog' and 'dog' differ only in case",
        "folders without images are ignored: train/yak",
        "1 of 11 test images are also training images (test/dog/9.jpg = train/cat/8.jpg)",
        "duplicate images within a split: 1",
        "images in more than one class: 1",
        "11 test images: the standard error of top-1 is 9.0 points at 90 %",
    ):
        assert part in said
    assert json.loads(json.dumps(found.summary.figures))["duplicates"]["test images in train"] == 1


def test_the_version_is_of_names_and_contents_and_of_nothing_else(tree):
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


def test_what_was_looked_at_is_remembered_until_it_changes(tree, monkeypatch):
    looked, look = [], inspection.check_file

    def watched(root, file):
        looked.append(file.path)
        return look(root, file)

    load(tree)
    (memory,) = (tree.parent / "index").rglob("*.json")
    assert json.loads(memory.read_text().split("\n")[0])["files"] == {}  # may change unseen
    monkeypatch.setattr(inspection, "check_file", watched)
    monkeypatch.setattr(
        inspection, "_TIMESTAMP_MARGIN", -60e9
    )  # as if it had lain there for a minute
    first = load(tree)
    assert len(looked) == 120
    assert load(tree).version == first.version
    assert len(looked) == 120
    path, state = tree / "cat" / "0.jpg", (tree / "cat" / "0.jpg").stat()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # the same size and time
    assert load(tree).version != first.version
    assert looked[120:] == ["cat/0.jpg"]
    memory.write_text("[")
    assert load(tree).version != first.version
    assert len(looked) == 241
    (tree.parent / "file").write_text("")  # no place to remember it
    assert load(tree, dir=str(tree.parent / "file")).version == load(tree).version


@pytest.mark.parametrize("change", [pathlib.Path.unlink, put])
def test_an_image_that_changes_while_a_run_goes_on_is_refused(tree, change):
    found = load(tree, feed="streamed", augment="random_resized", resize=9)
    for path in tree.rglob("*.jpg"):
        change(path)
    with pytest.raises(errors.InputError, match="image .*jpg .* since this run started: restore"):
        list(found.test.test_batches(4))


def test_an_image_whose_damage_shows_when_it_is_decoded_is_black_and_named(tmp_path, capsys):
    fill(tmp_path / "root")
    content = bytearray(encoded())
    tables = content.index(b"\xff\xc4")
    content[tables + 5 : tables + 21] = b"\xff" * 16  # no codes of such lengths
    put(tmp_path / "root" / "cat" / "x.jpg", bytes(content))
    found = load(tmp_path / "root")
    black = [i for i, name in enumerate(_names(found.train)) if name == "cat/x.jpg"]
    assert not found.train.images[black].any()
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


def test_what_opens_a_folder_can_be_sent_to_another_process(tree):
    source = load(tree).train.examples
    assert [dict(e) for e in pickle.loads(pickle.dumps(source))] == [dict(e) for e in source]
