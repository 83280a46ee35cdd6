"""The cache of decoded training images: identical batches, a memory limit and one log line."""

import dataclasses
import pickle

import cv2
import numpy as np
import pytest

from rrd_jax.data.feeds import feed, image_cache

_COUNT, _HEIGHT, _WIDTH = 11, 40, 52
_BYTES = _COUNT * _HEIGHT * _WIDTH * 3


class _CountingList(list):
    """A list of examples that counts its reads."""

    def __init__(self, examples):
        super().__init__(examples)
        self.reads = 0

    def __getitem__(self, i):
        self.reads += 1
        return super().__getitem__(i)


def _streamed(mode, share=0.5, **fields):
    rng, examples = np.random.default_rng(0), []
    for label in range(_COUNT):
        image = rng.integers(0, 256, (_HEIGHT, _WIDTH, 3), np.uint8)
        encoded = cv2.imencode(".jpg", image)[1].tobytes()
        examples.append({"image": encoded, "label": label})
    cache_options = image_cache.CacheOptions(mode, share)
    return feed.Streamed(
        _CountingList(examples),
        **{"size": 24, "channels": 3, "resize": 26, "threads": 1} | fields,
        cache_options=cache_options,
    )


def _batches(split, steps=9, start=0):
    return list(split.train_batches(3, seed=4, start=start, stop=steps))


def _assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        for name in ("image", "label", "index"):
            np.testing.assert_array_equal(a[name], b[name])


def _set_free_bytes(monkeypatch, value):
    monkeypatch.setattr(image_cache, "free_bytes", lambda: value)


@pytest.mark.parametrize("fields", [{}, {"resize": None, "workers": 2}], ids=str)
def test_a_set_that_fits_is_read_once_and_yields_the_same_batches(fields, capsys):
    split = _streamed("auto", **fields)
    cached = _batches(split)
    _assert_same(cached, _batches(_streamed("off", resize=split.resize)))
    # With data.resize, the headers are read first for the image sizes.
    header_reads = 0 if split.resize is None else _COUNT
    assert split.examples.reads == header_reads + _COUNT
    _assert_same(_batches(split, start=5), cached[5:])
    assert split.examples.reads == header_reads + _COUNT
    assert capsys.readouterr().out.startswith("image cache: 11 training images")


def test_a_set_that_does_not_fit_is_not_cached_and_this_is_logged(monkeypatch, capsys):
    _set_free_bytes(monkeypatch, 2 * _BYTES - 2)
    split = _streamed("auto")
    _assert_same(_batches(split), _batches(_streamed("off")))
    output = capsys.readouterr().out
    assert output.startswith("image cache: off, 11 training images")
    assert "prepare --resize=256" in output
    assert split._cache is None


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_mode_on_caches_as_many_images_as_fit(share, monkeypatch, capsys):
    _set_free_bytes(monkeypatch, _BYTES)
    split = _streamed("on", share)
    _assert_same(_batches(split), _batches(_streamed("off")))
    assert len(split._cache) == int(share * _COUNT)
    assert ("as many as fit" in capsys.readouterr().out) is (share < 1)


def test_the_cache_stops_growing_when_memory_runs_out(monkeypatch):
    monkeypatch.setattr(image_cache, "_CHECK_INTERVAL", 3 * _HEIGHT * _WIDTH * 3)
    split = _streamed("auto")
    assert split._cache is not None
    _set_free_bytes(monkeypatch, 0)
    _assert_same(_batches(split), _batches(_streamed("off")))
    assert len(split._cache) == 4


def test_other_examples_and_other_processes_start_with_an_empty_cache():
    split = _streamed("auto")
    _batches(split)
    assert len(split._cache) == _COUNT
    assert len(pickle.loads(pickle.dumps(split))._cache) == 0
    backwards = dataclasses.replace(split, examples=split.examples[::-1])
    assert len(backwards._cache) == 0
