"""Random folders with random damage, which must be read or refused in a few lines."""

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
    for position in rng.integers(0, len(content), rng.integers(1, 9)):
        content[position] ^= rng.integers(1, 256)
    path.write_bytes(content)


def _extend(path, rng):
    path.write_bytes(path.read_bytes() + rng.bytes(rng.integers(1, 300)))


# Changes that keep the number of images, remove one image, or have an uncertain effect.
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
    "removed": lambda path, rng: path.unlink(),
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


def _write(root, case):
    """Writes the folder.

    Returns:
      (number of images that are lost, number of images that may be lost).
    """
    for split in case["layout"].split() or ["."]:
        fill(root / split, case["classes"], case["number"])
    rng, lost, uncertain = np.random.default_rng(case["seed"]), 0, 0
    paths = rng.permutation(sorted(root.rglob("*.jpg"), key=os.fsencode))
    for path, kind in zip(paths, case["damage"], strict=False):
        (_HARMLESS | _HARMFUL | _UNCERTAIN)[kind](path, rng)
        lost += kind in _HARMFUL
        uncertain += kind in _UNCERTAIN
    return lost, uncertain


def _must_be_read(case):
    """Returns True if the folder must be read when it is undamaged."""
    is_carved = case["layout"] in ("", "train") and case["splits"] == ("train", "test")
    too_few = case["number"] < (30 if is_carved else 2)
    is_invalid = case["layout"] in ("set/train set/test", "test")
    return len(case["classes"]) > 1 and not too_few and not is_invalid


def _raise_timeout(number, frame):
    raise TimeoutError(f"not done in {_SECONDS} seconds")


def _open(root, case):
    """Loads all images of the folder within a time limit.

    Returns:
      (data set, None), or (None, error message) if the folder is refused.
    """
    before = signal.signal(signal.SIGALRM, _raise_timeout)
    signal.alarm(_SECONDS)
    try:
        splits = dict(zip(("train_split", "test_split"), case["splits"], strict=True))
        dataset = load(root, **splits)
        assert dataset.train.images.shape == (len(dataset.train), 8, 8, 3)
        assert dataset.test.images.shape == (len(dataset.test), 8, 8, 3)
        assert load(root, **splits).version == dataset.version
        return dataset, None
    except errors.InputError as error:
        return None, str(error)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _check(case):
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder, "root")
        lost, uncertain = _write(root, case)
        dataset, message = _open(root, case)
        if message is not None:
            assert message.count("\n") < 6
            assert len(message) < 2000
            assert lost or uncertain or not _must_be_read(case), message
            return
        assert set(dataset.class_names) <= set(map(display_path, case["classes"]))
        for part in (dataset.train, dataset.test):
            for example in part.examples:
                first = os.fsdecode(example["file_name"]).split("/")[0]
                assert dataset.class_names[example["label"]] == display_path(first)
        remaining = sum(dataset.summary.details["splits"].values())
        written = len(case["classes"]) * case["number"] * max(1, len(case["layout"].split()))
        assert written - lost - uncertain <= remaining <= written - lost


@fuzz.settings(40)
@hypothesis.given(_FOLDERS)
def test_a_random_folder_is_read_or_refused_in_a_few_lines(case):
    _check(case)


@pytest.mark.long
@fuzz.seeded
@fuzz.long_settings(300)
@hypothesis.given(_FOLDERS)
def test_many_random_folders_are_read_or_refused_in_a_few_lines(case):
    _check(case)
