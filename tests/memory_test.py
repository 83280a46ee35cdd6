import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, memory
from tests import golden


def _queue(size, dim=2, cursor=0):
    rows = -jnp.arange(size * dim, dtype=jnp.float32).reshape(size, dim) - 1
    return memory.Queue(rows, jnp.int32(cursor))


def _ring(rows, cursor, pushed):
    """What a ring buffer holds after its rows are overwritten one at a time."""
    rows = np.array(rows)
    for row in pushed:
        rows[cursor] = row
        cursor = (cursor + 1) % len(rows)
    return rows, cursor


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("batch", [1, 2, 3, 7, 8, 9, 20])
@pytest.mark.parametrize("jit", [False, True])
def test_push_overwrites_the_oldest_and_wraps_for_any_batch(size, batch, jit):
    for cursor in {0, size // 2, size - 1}:
        queue = _queue(size, cursor=cursor)
        rows = jnp.arange(batch * 2, dtype=jnp.float32).reshape(batch, 2)
        found = (jax.jit(memory.push) if jit else memory.push)(queue, rows)
        wanted_rows, wanted_cursor = _ring(queue.rows, cursor, rows)
        np.testing.assert_array_equal(found.rows, wanted_rows)
        assert int(found.cursor) == wanted_cursor
        assert found.cursor.dtype == jnp.int32


@pytest.mark.parametrize("initial", ["unit", "reference"])
def test_a_fresh_queue_has_unit_rows_or_unit_columns(initial):
    queue = memory.init_queue(jax.random.key(0), 64, 16, initial=initial)
    lengths = np.linalg.norm(queue.rows, axis=1 if initial == "unit" else 0)
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)
    assert int(queue.cursor) == 0


def test_nothing_flows_back_through_a_push():
    def total(rows):
        return jnp.sum(memory.push(_queue(4), rows).rows)

    np.testing.assert_array_equal(jax.grad(total)(jnp.ones((3, 2))), 0)


def test_rows_of_another_length_are_refused():
    with pytest.raises(errors.InputError, match=r"\(3, 5\).*\[4, 2\]"):
        memory.push(_queue(4), jnp.ones((3, 5)))


@pytest.mark.parametrize("size", [0, -1])
def test_an_empty_queue_is_refused(size):
    with pytest.raises(errors.InputError, match=f"queue_size is {size}"):
        memory.init_queue(jax.random.key(0), size, 2)


def test_unknown_start_is_refused_with_the_known_ones():
    with pytest.raises(errors.InputError, match="known: unit, reference"):
        memory.init_queue(jax.random.key(0), 4, 2, initial="zeros")


@pytest.mark.parametrize("name", ["rrd_fifo_c_two_calls", "rrd_fifo_d_wrap"])
def test_two_pushes_leave_the_reference_queue_and_cursor(name):
    file = golden.load(name)
    for step in ("step0", "step1"):
        rows = file[f"{step}/buf_before/rrd.memory.queue"]
        cursor = file[f"{step}/buf_before/rrd.memory.queue_ptr"][0]
        after = file[f"{step}/buf_after/rrd.memory.queue"]
        batch = int(file["hp/batch"])
        # The pushed rows as the reference normalised them.
        pushed = after[(cursor + np.arange(batch)) % len(after)]
        queue = memory.push(memory.Queue(jnp.asarray(rows), jnp.int32(cursor)), jnp.asarray(pushed))
        np.testing.assert_array_equal(queue.rows, after)
        assert int(queue.cursor) == file[f"{step}/buf_after/rrd.memory.queue_ptr"][0]
