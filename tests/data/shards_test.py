"""WebDataset shards: patterns, splits, labels, and damaged tar files."""

import io
import json
import os
import pickle
import tarfile

import numpy as np
import PIL.Image
import pytest

from rrd_jax import data, errors
from rrd_jax.data.shards import patterns

_PIXELS = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), np.uint8)


def _png(i):
    file = io.BytesIO()
    PIL.Image.fromarray(_PIXELS[i]).save(file, "PNG")
    return file.getvalue()


def _write(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            content = content if isinstance(content, bytes) else str(content).encode()
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def _samples(indices, label="cls", value=lambda i: i % 3):
    for i in indices:
        yield f"a.b/{i:03d}.PNG", _png(i)
        yield f"a.b/{i:03d}.{label}", value(i)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    for name, indices in {
        "train-0": range(9),
        "train-1": range(9, 18),
        "val-0": range(18, 24),
    }.items():
        _write(tmp_path / "shards" / f"{name}.tar", _samples(indices))
    return tmp_path / "shards"


def _load(pattern, **fields):
    return data.load(
        data.Source(f"wds:{pattern}", **({"image_size": 8, "augment": "none"} | fields))
    )


@pytest.mark.parametrize(
    "pattern", ["", "/*.tar", "/{train-{0..1},val-0}.tar", "/train-?.tar::{}/val-[0-9].tar"]
)
def test_shards_are_read_in_order_with_their_splits(folder, pattern):
    dataset = _load(f"{folder}{pattern.replace('{}', str(folder))}")
    np.testing.assert_array_equal(dataset.train.images, _PIXELS[:18])
    np.testing.assert_array_equal(dataset.train.labels, np.arange(18) % 3)
    np.testing.assert_array_equal(dataset.test.images, _PIXELS[18:])
    assert dataset.train.examples[3]["file_name"] == b"a.b/003.png"
    sent = pickle.loads(pickle.dumps(dataset.train.examples))
    assert sent[17]["image"] == dataset.train.examples[17]["image"]


def test_the_version_does_not_depend_on_the_place_but_on_the_content(folder, tmp_path):
    first = _load(folder).version
    folder.rename(tmp_path / "elsewhere")
    assert _load("*.tar", manual_dir=str(tmp_path / "elsewhere")).version == first
    _write(tmp_path / "elsewhere" / "train-1.tar", _samples(reversed(range(9, 18))))
    assert _load(tmp_path / "elsewhere").version != first


def test_an_index_is_made_once_and_again_for_a_changed_shard(folder, monkeypatch):
    _load(folder)
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", None)
        dataset = _load(folder)
    content = (folder / "train-0.tar").read_bytes()
    (folder / "train-0.tar").write_bytes(content.replace(_png(0), _png(1)))
    os.utime(folder / "train-0.tar", ns=(1, 1))
    with pytest.raises(errors.InputError, match=r"train-0.tar has changed since this run started"):
        _ = dataset.train.images
    np.testing.assert_array_equal(_load(folder).train.images[0], _PIXELS[1])


@pytest.mark.parametrize(
    ("label", "value", "options"),
    [
        ("json", lambda i: json.dumps({"label": f"k{i % 3}"}), {}),
        ("json", lambda i: json.dumps({"label": 9, "kind": f"k{i % 3}"}), {"label": "json.kind"}),
        ("txt", lambda i: f"k{i % 3}\n", {"label": "txt"}),
        ("cls", lambda i: f"k{i % 3}", {}),
    ],
)
def test_labels_may_be_names_of_classes(tmp_path, monkeypatch, label, value, options):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    _write(tmp_path / "0.tar", _samples(range(24), label, value))
    dataset = _load(tmp_path / "0.tar", options=options, test_split="train[:12]")
    assert dataset.class_names == ("k0", "k1", "k2")
    np.testing.assert_array_equal(dataset.train.labels, np.arange(24) % 3)


def test_shards_without_labels_are_for_unlabelled_runs(folder, tmp_path):
    _write(tmp_path / "images" / "0.tar", [(f"{i}.png", _png(i)) for i in range(24)])
    with pytest.raises(errors.InputError, match=r"0.tar has no labels: .* data.use_labels=False"):
        _load(tmp_path / "images")
    dataset = _load(
        tmp_path / "images/0.tar", use_labels=False, options={"test": f"{folder}/val-0.tar"}
    )
    assert (len(dataset.train), len(dataset.test), dataset.num_classes) == (24, 6, 0)


def _truncated(path):
    path.write_bytes(path.read_bytes()[:4000])


def _without_end(path):
    with tarfile.open(path) as tar:
        list(tar)
        end = tar.offset
    path.write_bytes(path.read_bytes()[:end])


def _linked(path):
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("linked.png")
        member.type, member.linkname = tarfile.LNKTYPE, "a.b/000.PNG"
        tar.addfile(member)


def _scrambled(path):
    content = bytearray(path.read_bytes())
    content[2048:2148] = b"\xff" * 100
    path.write_bytes(content)


_EXTRA = [("x.png", b"\x89PNG"), ("x.png", b"\x89PNG")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_truncated, r"train-0.tar is damaged or incomplete \(.*\); copy or write it again"),
        (_without_end, r"train-0.tar is damaged or incomplete \(it has no mark of its end\)"),
        (_linked, r"train-0.tar: 'linked.png' is a link or a device.*--hard-dereference"),
        (_scrambled, r"train-0.tar is damaged or incomplete \(there is no entry at byte"),
        (lambda path: path.write_bytes(b""), "it is empty"),
        (lambda path: path.write_bytes(b"\x1f\x8b" * 99), "compressed with gzip.*decompress"),
        (lambda path: path.write_bytes(path.read_bytes() * 2), "incomplete .there is no"),
        (lambda path: _write(path, _EXTRA), "train-0.tar has 'x.png' twice"),
        (lambda path: _write(path, [*_samples(range(9)), ("y.png", _png(0))]),
         r"train-0.tar: 1 of 10 images have no label, such as 'y', which has no file .cls"),
        (lambda path: _write(path, _samples(range(9), value=lambda i: "-1")), "cls' is -1, but"),
        (lambda path: _write(path, _samples(range(9), value=lambda i: "")), "cls' is empty"),
        (lambda path: _write(path, _samples(range(9), value=lambda i: "cat")), "some labels are"),
        (lambda path: _write(path, [("0.png", _png(0)), ("0.jpg", _png(0)), ("0.cls", 1)]),
         r"sample '0' has several images .*data.options.image=png"),
        (lambda path: path.rename(path.with_name("x.tar")), "x.tar has no split such as"),
    ],
)  # fmt: skip
def test_damaged_shards_are_refused_in_one_line_with_the_file(folder, change, message):
    change(folder / "train-0.tar")
    with pytest.raises(errors.InputError, match=message) as error:
        _load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", "without a pattern"),
        ("pipe:cat x.tar", "a command, but commands are not run"),
        ("https://x.org/a.tar", "URLs are not downloaded"),
        ("/nowhere/{0..3}.tar", "no shard /nowhere/0.tar and 3 more"),
        ("/nowhere/{0..3.tar", "unmatched brace"),
        ("/{0..9999999}{0..99999999}.tar", "more than 1,000,000 names"),
    ],
)
def test_invalid_patterns_are_refused_in_one_line(pattern, message):
    with pytest.raises(errors.InputError, match=message) as error:
        _load(pattern)
    assert "\n" not in str(error.value)


def test_a_shard_in_two_splits_is_refused(folder):
    with pytest.raises(errors.FieldError, match=r"train-1.tar is a shard of the split train"):
        _load(f"{folder}/train-*.tar", options={"test": f"{folder}/train-1.tar"})


def test_captions_are_not_classes(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    _write(tmp_path / "0.tar", _samples(range(9), "txt", lambda i: f"a photo of {i}"))
    with pytest.raises(errors.InputError, match=r"'a.b/000.txt' is 'a photo of 0', .*label=txt"):
        _load(tmp_path)


def test_braces_are_expanded_as_in_a_shell():
    expand = patterns.expand
    assert expand("{a,b{1,2}}x{9..11}", "x")[:5] == ["ax9", "ax10", "ax11", "b1x9", "b1x10"]
    assert expand("{08..10}", "x") == ["08", "09", "10"]
    assert expand("{2..0}", "x") == ["2", "1", "0"]
