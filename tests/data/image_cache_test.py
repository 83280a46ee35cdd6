"""Training images that stay decoded in memory: the same pixels, as many as fit, said in a line."""

import dataclasses
import pickle

import cv2
import numpy as np
import pytest

from rrd_jax.data.feeds import feed, image_cache

_COUNT, _HEIGHT, _WIDTH = 11, 40, 52
_BYTES = _COUNT * _HEIGHT * _WIDTH * 3


class _Read(list):
    """Examples that count how often they are read."""

    def __init__(self, examples):
        super().__init__(examples)
        self.read = 0

    def __getitem__(self, i):
        self.read += 1
        return super().__getitem__(i)


def _streamed(mode, share=0.5, **fields):
    rng, examples = np.random.default_rng(0), []
    for label in range(_COUNT):
        image = rng.integers(0, 256, (_HEIGHT, _WIDTH, 3), np.uint8)
        encoded = cv2.imencode(".jpg", image)[1].tobytes()
        examples.append({"image": encoded, "label": label})
    keep = image_cache.CacheOptions(mode, share)
    return feed.Streamed(
        _Read(examples),
        **{"size": 24, "channels": 3, "resize": 26, "threads": 1} | fields,
        cache_options=keep,
    )


def _batches(split, steps=9, start=0):
    return list(split.train_batches(3, seed=4, start=start, stop=steps))


def _assert_same(some, others):
    for a, b in zip(some, others, strict=True):
        for name in ("image", "label", "index"):
            np.testing.assert_array_equal(a[name], b[name])


def _free(monkeypatch, value):
    monkeypatch.setattr(image_cache, "free_bytes", lambda: value)


@pytest.mark.parametrize("fields", [{}, {"resize": None, "workers": 2}], ids=str)
def test_a_set_that_fits_is_read_once_and_gives_the_same_batches(fields, capsys):
    split = _streamed("auto", **fields)
    kept = _batches(split)
    _assert_same(kept, _batches(_streamed("off", resize=split.resize)))
    looked_at = 0 if split.resize is None else _COUNT  # for the sizes in their headers
    assert split.examples.read == looked_at + _COUNT
    _assert_same(_batches(split, start=5), kept[5:])
    assert split.examples.read == looked_at + _COUNT
    assert capsys.readouterr().out.startswith("image cache: 11 training images")


def test_a_set_that_does_not_fit_is_not_kept_and_that_is_said(monkeypatch, capsys):
    _free(monkeypatch, 2 * _BYTES - 2)
    split = _streamed("auto")
    _assert_same(_batches(split), _batches(_streamed("off")))
    said = capsys.readouterr().out
    assert said.startswith("image cache: off, 11 training images")
    assert "prepare --resize=256" in said
    assert split._cache is None


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_as_many_as_fit_are_kept_on_demand(share, monkeypatch, capsys):
    _free(monkeypatch, _BYTES)
    split = _streamed("on", share)
    _assert_same(_batches(split), _batches(_streamed("off")))
    assert len(split._cache) == int(share * _COUNT)
    assert ("as many as fit" in capsys.readouterr().out) is (share < 1)


def test_no_more_is_kept_once_others_take_the_memory(monkeypatch):
    monkeypatch.setattr(image_cache, "_CHECK_INTERVAL", 3 * _HEIGHT * _WIDTH * 3)
    split = _streamed("auto")
    assert split._cache is not None
    _free(monkeypatch, 0)
    _assert_same(_batches(split), _batches(_streamed("off")))
    assert len(split._cache) == 4


def test_other_examples_and_other_processes_have_none_of_it():
    split = _streamed("auto")
    _batches(split)
    assert len(split._cache) == _COUNT
    assert len(pickle.loads(pickle.dumps(split))._cache) == 0
    backwards = dataclasses.replace(split, examples=split.examples[::-1])
    assert len(backwards._cache) == 0
