"""Arrays that are memory-mapped files, for worker processes."""

import pickle

import numpy as np
import pytest

from rrd_jax import data, errors
from rrd_jax.data.sources import memory_maps

_PIXELS = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 3), np.uint8)


@pytest.fixture
def path(tmp_path):
    np.save(tmp_path / "images.npy", _PIXELS)
    return tmp_path / "images.npy"


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
@pytest.mark.parametrize(
    "part",
    [lambda x: x, np.asarray, lambda x: x[5:][::-2, :, 1], lambda x: x.T, lambda x: x[3][1:]],
)
def test_parts_of_a_memory_map_are_pickled_as_paths(path, mode, part):
    array = part(np.load(path, mmap_mode=mode))
    dumped = memory_maps.dumps({"images": array})
    assert len(dumped) < 1000
    np.testing.assert_array_equal(pickle.loads(dumped)["images"], array)


def test_a_memory_map_that_differs_from_its_file_is_copied(path):
    changed = np.load(path, mmap_mode="c")
    changed[7, 2] = 1
    deleted = np.load(path, mmap_mode="r")
    np.testing.assert_array_equal(pickle.loads(memory_maps.dumps(changed)), changed)
    path.unlink()
    np.testing.assert_array_equal(pickle.loads(memory_maps.dumps(deleted)), _PIXELS)


def test_examples_of_a_memory_map_are_sent_to_worker_processes_without_their_content(path):
    images = np.load(path, mmap_mode="r")
    dataset = data.from_sources((images, np.arange(40) % 4), source=data.Source(
        image_size=12, train_split="train[:30]", test_split="train[30:]"))  # fmt: skip
    dumped = pickle.dumps(dataset.train.examples)
    assert len(dumped) < _PIXELS.nbytes / 2
    for sent, example in zip(pickle.loads(dumped), dataset.train.examples, strict=True):
        np.testing.assert_array_equal(sent["image"], example["image"])


def test_a_source_that_is_reopened_must_have_the_same_examples(tmp_path, monkeypatch):
    (tmp_path / "shaky_source.py").write_text(
        "import numpy as np\n"
        "def source(split):\n"
        "    rng = np.random.default_rng()\n"
        "    return rng.integers(0, 256, (9, 8, 8, 3), np.uint8), np.arange(9) % 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    source = data.Source("shaky_source:source", image_size=8, test_split="train")
    dumped = pickle.dumps(data.load(source).train.examples)
    with pytest.raises(errors.InputError, match="has other examples when a worker .* data.workers"):
        pickle.loads(dumped)
