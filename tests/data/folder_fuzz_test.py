"""Random folders with random damage: they are read as they are, or refused in a few lines."""

import os
import pathlib
import signal
import struct
import tempfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from rrd_jax import errors
from rrd_jax.data.folder.file_tree import display_path
from tests import fuzz
from tests.data.folders import encoded, fill, load

_NAMES = (
    "cat",
    "dog",
    "emu",
    "a b",
    "\u00e9\u2603",
    "x\ny",
    "'q\"",
    os.fsdecode(b"\xff\xfe"),
    "10",
)
_LAYOUTS = ("", "train", "train test", "Training val", "train dev", "set/train set/test", "test")
_SECONDS = 20


def _huge(path, rng):
    content = bytearray(encoded("PNG"))
    content[16:24] = struct.pack(">II", 100_000, 100_000)
    path.write_bytes(content)


def _flip(path, rng):
    content = bytearray(path.read_bytes())
    for place in rng.integers(0, len(content), rng.integers(1, 9)):
        content[place] ^= rng.integers(1, 256)
    path.write_bytes(content)


def _extend(path, rng):
    path.write_bytes(path.read_bytes() + rng.bytes(rng.integers(1, 300)))


# What they do to the number of images: none more or less, one less, or nobody knows.
_HARMLESS = {
    "another suffix": lambda path, rng: path.rename(path.with_suffix(".png")),
    "no suffix": lambda path, rng: path.rename(path.with_suffix("")),
    "an odd name": lambda path, rng: path.rename(path.with_name("\n\u2603'" + path.name)),
    "a name of bytes": lambda path, rng: path.rename(path.with_name("\udcff" + path.name)),
    "deeper": lambda path, rng: (
        path.with_suffix("").mkdir(),
        path.rename(path.with_suffix("") / path.name),
    ),
    "PNG": lambda path, rng: path.write_bytes(encoded("PNG")),
    "WebP": lambda path, rng: path.write_bytes(encoded("WEBP", size=(3, 200))),
    "TIFF": lambda path, rng: path.write_bytes(encoded("TIFF", size=(1, 1))),
    "a note": lambda path, rng: path.with_suffix(".txt").write_bytes(rng.bytes(50)),
    "a pipe": lambda path, rng: os.mkfifo(path.with_suffix(".pipe")),
    "a hidden file": lambda path, rng: path.with_name(".x.jpg").write_bytes(b"x"),
    "a loop": lambda path, rng: path.with_suffix(".loop").symlink_to(".."),
    "a link out": lambda path, rng: path.with_suffix(".out").symlink_to("/"),
    "a broken link": lambda path, rng: path.with_suffix(".link").symlink_to("nowhere"),
}
_HARMFUL = {
    "empty": lambda path, rng: path.write_bytes(b""),
    "half": lambda path, rng: os.truncate(path, path.stat().st_size // 2),
    "zeros": lambda path, rng: path.write_bytes(path.read_bytes()[:-100] + bytes(100)),
    "text": lambda path, rng: path.write_bytes(b"<html>not found</html>"),
    "huge": _huge,
    "gone": lambda path, rng: path.unlink(),
}
_UNCERTAIN = {
    "flipped": _flip,
    "cut": lambda path, rng: os.truncate(path, rng.integers(0, path.stat().st_size)),
    "extended": _extend,
    "noise": lambda path, rng: path.write_bytes(rng.bytes(rng.integers(1, 400))),
}
_FOLDERS = st.fixed_dictionaries(
    {
        "layout": st.sampled_from(_LAYOUTS),
        "classes": st.lists(st.sampled_from(_NAMES), min_size=1, max_size=4, unique=True),
        "number": st.integers(1, 30),
        "damage": st.lists(
            st.sampled_from([*_HARMLESS, *_HARMFUL, *_UNCERTAIN]), max_size=6, unique=True
        ),
        "splits": st.sampled_from([("train", "test"), ("train[:50%]", "train[50%:]")]),
        "seed": st.integers(0, 2**32 - 1),
    }
)


def _make(root, drawn):
    """Writes the folder; returns the numbers of images that are lost, and that may be."""
    for split in drawn["layout"].split() or ["."]:
        fill(root / split, drawn["classes"], drawn["number"])
    rng, lost, uncertain = np.random.default_rng(drawn["seed"]), 0, 0
    paths = rng.permutation(sorted(root.rglob("*.jpg"), key=os.fsencode))
    for path, kind in zip(paths, drawn["damage"], strict=False):
        (_HARMLESS | _HARMFUL | _UNCERTAIN)[kind](path, rng)
        lost += kind in _HARMFUL
        uncertain += kind in _UNCERTAIN
    return lost, uncertain


def _is_in_order(drawn):
    """Whether the folder, undamaged, must be read."""
    carved = drawn["layout"] in ("", "train") and drawn["splits"] == ("train", "test")
    too_few = drawn["number"] < (30 if carved else 2)
    wrong = drawn["layout"] in ("set/train set/test", "test")
    return len(drawn["classes"]) > 1 and not too_few and not wrong


def _hang(number, frame):
    raise TimeoutError(f"not done in {_SECONDS} seconds")


def _open(root, drawn):
    """The data set with all its images, in bounded time, or why it is refused."""
    before = signal.signal(signal.SIGALRM, _hang)
    signal.alarm(_SECONDS)
    try:
        splits = dict(zip(("train_split", "test_split"), drawn["splits"], strict=True))
        found = load(root, **splits)
        assert found.train.images.shape == (len(found.train), 8, 8, 3)
        assert found.test.images.shape == (len(found.test), 8, 8, 3)
        assert load(root, **splits).version == found.version
        return found, None
    except errors.InputError as error:
        return None, str(error)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _check(drawn):
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder, "root")
        lost, uncertain = _make(root, drawn)
        found, refused = _open(root, drawn)
        if refused is not None:
            assert refused.count("\n") < 6
            assert len(refused) < 2000
            assert lost or uncertain or not _is_in_order(drawn), refused
            return
        assert set(found.class_names) <= set(map(display_path, drawn["classes"]))
        for part in (found.train, found.test):
            for example in part.examples:
                first = os.fsdecode(example["file_name"]).split("/")[0]
                assert found.class_names[example["label"]] == display_path(first)
        whole = sum(found.summary.figures["splits"].values())
        made = len(drawn["classes"]) * drawn["number"] * max(1, len(drawn["layout"].split()))
        assert made - lost - uncertain <= whole <= made - lost


@fuzz.settings(40)
@hypothesis.given(_FOLDERS)
def test_a_random_folder_is_read_as_it_is_or_refused_in_a_few_lines(drawn):
    _check(drawn)


@pytest.mark.long
@fuzz.seeded
@fuzz.long_settings(600)
@hypothesis.given(_FOLDERS)
def test_many_random_folders_are_read_as_they_are_or_refused(drawn):
    _check(drawn)
