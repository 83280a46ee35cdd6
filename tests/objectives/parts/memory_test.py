import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rrd_jax
from rrd_jax import errors
from rrd_jax.objectives import dkd, kd, sp, wsld
from rrd_jax.objectives.parts import memory
from tests import golden


def _queue(size, dim=2, cursor=0):
    rows = -jnp.arange(size * dim, dtype=jnp.float32).reshape(size, dim) - 1
    return memory.Queue(rows, jnp.int32(cursor))


def _ring(rows, cursor, pushed):
    """Returns the rows and the cursor of a ring buffer after pushing rows one by one."""
    rows = np.array(rows)
    for row in pushed:
        rows[cursor] = row
        cursor = (cursor + 1) % len(rows)
    return rows, cursor


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("batch", [1, 2, 3, 7, 8, 9, 20])
@pytest.mark.parametrize("jit", [False, True])
def test_a_push_overwrites_the_oldest_rows_and_wraps_for_any_batch(size, batch, jit):
    for cursor in {0, size // 2, size - 1}:
        queue = _queue(size, cursor=cursor)
        rows = jnp.arange(batch * 2, dtype=jnp.float32).reshape(batch, 2)
        actual = (jax.jit(memory.push) if jit else memory.push)(queue, rows)
        wanted_rows, wanted_cursor = _ring(queue.rows, cursor, rows)
        np.testing.assert_array_equal(actual.rows, wanted_rows)
        assert int(actual.cursor) == wanted_cursor
        assert actual.cursor.dtype == jnp.int32


@pytest.mark.parametrize("initial", ["unit", "reference"])
def test_an_initial_queue_has_unit_rows_or_unit_columns(initial):
    queue = memory.init_queue(jax.random.key(0), 64, 16, initial=initial)
    lengths = np.linalg.norm(queue.rows, axis=1 if initial == "unit" else 0)
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)
    assert int(queue.cursor) == 0


def test_a_push_has_no_gradient():
    def total(rows):
        return jnp.sum(memory.push(_queue(4), rows).rows)

    np.testing.assert_array_equal(jax.grad(total)(jnp.ones((3, 2))), 0)


def test_rows_of_another_length_are_refused():
    with pytest.raises(errors.InputError, match=r"\(3, 5\).*\[4, 2\]"):
        memory.push(_queue(4), jnp.ones((3, 5)))


def test_an_unknown_initial_value_is_refused_with_the_allowed_values():
    with pytest.raises(errors.InputError, match="known: unit, reference, zeros"):
        memory.init_queue(jax.random.key(0), 4, 2, initial="ones")


@pytest.mark.parametrize("name", ["rrd_fifo_c_two_calls", "rrd_fifo_d_wrap"])
def test_two_pushes_leave_the_reference_queue_and_cursor(name):
    file = golden.load(name)
    for step in ("step0", "step1"):
        rows = file[f"{step}/buf_before/rrd.memory.queue"]
        cursor = file[f"{step}/buf_before/rrd.memory.queue_ptr"][0]
        after = file[f"{step}/buf_after/rrd.memory.queue"]
        batch = int(file["hp/batch"])
        # The rows that the reference pushed are normalized.
        pushed = after[(cursor + np.arange(batch)) % len(after)]
        queue = memory.push(memory.Queue(jnp.asarray(rows), jnp.int32(cursor)), jnp.asarray(pushed))
        np.testing.assert_array_equal(queue.rows, after)
        assert int(queue.cursor) == file[f"{step}/buf_after/rrd.memory.queue_ptr"][0]


def _update64(rows, index, new, momentum):
    rows, old = np.array(rows, np.float64), np.array(rows, np.float64)
    for i, row in zip(index, new, strict=True):
        moved = momentum * old[i] + (1 - momentum) * row
        rows[i] = moved / np.linalg.norm(moved)
    return rows


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("index", [[3], [0, 6, 2], [4, 4, 1, 4, 1], [0, 1, 2, 3, 4, 5, 6, 0]])
def test_an_update_moves_the_indexed_rows_and_the_last_duplicate_wins(index, momentum, jit):
    rng = np.random.default_rng(0)
    bank = memory.init_bank(jax.random.key(0), 7, 5)
    new = rng.standard_normal((len(index), 5))
    update = jax.jit(memory.update, static_argnames="momentum") if jit else memory.update
    actual = update(bank, jnp.asarray(index), jnp.asarray(new, jnp.float32), momentum=momentum)
    expected = _update64(bank.rows, index, new, momentum)
    np.testing.assert_allclose(actual.rows, expected, rtol=0, atol=2e-7)
    left = np.setdiff1d(np.arange(7), index)
    np.testing.assert_array_equal(actual.rows[left], bank.rows[left])


def test_an_initial_bank_has_rows_of_mean_squared_length_one():
    rows = memory.init_bank(jax.random.key(0), 400, 64).rows
    np.testing.assert_allclose(np.mean(np.square(rows)) * 64, 1, rtol=0.02)
    assert np.abs(rows).max() <= np.sqrt(3 / 64)


def test_an_update_has_no_gradient_and_refuses_invalid_shapes():
    bank = memory.init_bank(jax.random.key(0), 4, 2)

    def total(rows):
        return jnp.sum(memory.update(bank, jnp.arange(3), rows).rows)

    np.testing.assert_array_equal(jax.grad(total)(jnp.ones((3, 2))), 0)
    with pytest.raises(errors.InputError, match=r"\(3, 5\).*\[4, 2\]"):
        memory.update(bank, jnp.arange(3), jnp.ones((3, 5)))
    with pytest.raises(errors.InputError, match="examples is 0"):
        memory.init_bank(jax.random.key(0), 0, 2)


def test_an_update_of_a_sharded_bank_equals_that_of_a_replicated_bank():
    from rrd_jax import parallel

    mesh = parallel.make_mesh()
    bank = memory.init_bank(jax.random.key(0), 48, 3)
    split = memory.Bank(jax.device_put(bank.rows, parallel.split(mesh)))
    rng = np.random.default_rng(0)
    index, rows = rng.integers(0, 48, 16), rng.standard_normal((16, 3)).astype(np.float32)
    update = jax.jit(memory.update)
    expected = update(bank, index, rows)
    actual = update(split, *(jax.device_put(x, parallel.split(mesh)) for x in (index, rows)))
    np.testing.assert_allclose(actual.rows, expected.rows, rtol=0, atol=1e-7)


_KEY, _ROWS = jax.random.key(0), jnp.ones((3, 2))
_QUEUE, _BANK = memory.init_queue(_KEY, size=4, dim=2), memory.init_bank(_KEY, examples=4, dim=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: memory.init_queue(_KEY, size=2.5, dim=2),
            "queue_size is 2.5, but must be a whole",
        ),
        (lambda: memory.init_queue(0, size=2, dim=2), "key is 0"),
        (lambda: memory.init_queue(_KEY, size=2, dim=2, initial=["unit"]), "unknown initial"),
        (lambda: memory.init_bank(_KEY, examples=2, dim=2.0), "dim is 2.0"),
        (lambda: memory.push(_QUEUE, [[1.0, 2.0]]), "rows is of type list, but must be an array"),
        (lambda: memory.push(_QUEUE, _ROWS + 1j), "rows is an array of complex64"),
        (lambda: memory.push(_QUEUE.rows, _ROWS), "queue is of type .*, but must be a Queue"),
        (lambda: memory.update(_QUEUE, jnp.arange(3), _ROWS), "bank is of type Queue"),
        (lambda: memory.update(_BANK, jnp.arange(3), _ROWS, momentum=5), "momentum is 5"),
        (lambda: memory.update(_BANK, jnp.arange(3) + 9, _ROWS), "index ranges from 9 to 11"),
        (lambda: memory.update(_BANK, jnp.arange(3.0), _ROWS), "but must be of integers"),
        (lambda: kd.kd_loss(_ROWS, _ROWS.tolist(), temperature=4), "teacher is of type list"),
        (lambda: sp.sp_loss(_ROWS > 0, _ROWS), "student is an array of bool"),
        (lambda: dkd.dkd_loss(_ROWS, _ROWS, jnp.arange(3)), "labels ranges from 0 to 2, .* to 1"),
        (lambda: dkd.dkd_loss(_ROWS, _ROWS, None), "labels is of type NoneType"),
        (lambda: wsld.wsld_loss(_ROWS, _ROWS, jnp.arange(3) - 1), "labels ranges from -1"),
        (lambda: wsld.wsld_loss(_ROWS, _ROWS, jnp.zeros(3)), "labels is .* but must be of int"),
        (lambda: wsld.wsld_loss(_ROWS, _ROWS, jnp.zeros((3, 1), int)), r"labels of shape \(3, 1\)"),
        (lambda: _loss(chunk=-3), "chunk is -3"),
        (lambda: _loss(chunk=2.5), "chunk is 2.5"),
        (lambda: _loss(temperature_student=1e-300), "range of float32"),
        (lambda: _loss(temperature_student=jnp.array(-0.1)), "temperature_student is -0.1"),
        (lambda: _loss(temperature_student=jnp.ones(2)), "temperature_student is "),
    ],
)
def test_invalid_arguments_are_refused(call, message):
    with pytest.raises(errors.InputError, match=message):
        call()


def _loss(**options):
    usual = {"temperature_student": 0.1, "temperature_teacher": 0.1}
    return rrd_jax.relational_loss(_ROWS, _ROWS, _QUEUE.rows, **usual | options)
