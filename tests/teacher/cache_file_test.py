"""Files of cached teacher outputs, which are filled row by row."""

import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax.teacher.cache_file import CacheFile

_SHAPE = (10, 2, 3)


def _rows(folder, dtype=np.float32):
    rows = CacheFile(folder / "rows", _SHAPE, dtype)
    rows.create({"views": "of a test"})
    return rows


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_written_rows_are_read_by_the_next_start(tmp_path, dtype):
    values = np.random.default_rng(0).normal(size=_SHAPE).astype(dtype)
    rows = _rows(tmp_path, dtype)
    assert rows.missing()[0].tolist() == list(range(10))
    rows.write(np.array([0, 1, 4, 4]), values[[0, 1, 4, 4]])
    reopened = _rows(tmp_path, dtype)
    assert not reopened.is_complete()
    missing, damaged = reopened.missing()
    assert (missing.tolist(), damaged) == ([2, 3, 5, 6, 7, 8, 9], 0)
    reopened.write(missing, values[missing])
    assert reopened.is_complete()
    np.testing.assert_array_equal(CacheFile(tmp_path / "rows", _SHAPE, dtype).read(), values)


def test_an_incomplete_note_and_damaged_rows_are_written_again(tmp_path):
    values = np.ones(_SHAPE, np.float32)
    rows = _rows(tmp_path)
    rows.write(np.arange(5), values[:5])
    rows.write(np.arange(5, 10), values[5:])
    note, file = tmp_path / "rows/known-0.txt", tmp_path / "rows/rows"
    # A killed process leaves an incomplete note.
    note.write_text(note.read_text()[:-4])
    assert rows.missing()[0].tolist() == [5, 6, 7, 8, 9]
    rows.write(np.arange(5, 10), values[5:])
    content = bytearray(file.read_bytes())
    content[7] ^= 1
    file.write_bytes(content)
    missing, damaged = rows.missing()
    assert (missing.tolist(), damaged) == ([0, 1, 2, 3, 4], 5)
    rows.write(missing, values[missing])
    assert rows.missing()[0].tolist() == []
    assert rows.is_complete()
    file.write_bytes(file.read_bytes()[:50])
    assert not rows.is_complete()
    assert rows.missing()[1] == 10
