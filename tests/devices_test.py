"""The step on any number of devices, with any way to walk a batch or a memory."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import optim, parallel
from tests import tiny


def _run(devices, **options):
    """20 steps: their losses, and the last state."""
    chex.clear_trace_counter()
    mesh = parallel.make_mesh(jax.devices()[:devices])
    run_state, step, teacher, batches = tiny.job(mesh, **options)
    losses = []
    for i in range(20):
        batch = parallel.put_batch(mesh, batches[i % len(batches)])
        run_state, logged = step(run_state, teacher, batch)
        losses.append(float(logged["loss"]))
    return losses, run_state


@pytest.fixture(scope="module")
def one_device_run():
    losses, run_state = _run(1)
    return losses, jax.device_get(run_state.replace(key=()))


@pytest.mark.parametrize("shard_parameters", [False, True])
@pytest.mark.parametrize("devices", [2, 4, 8])
def test_any_number_of_devices_gives_the_losses_and_the_memory_of_one(
    devices, shard_parameters, one_device_run
):
    losses_one, one = one_device_run
    losses, many = _run(devices, shard_parameters=shard_parameters)
    np.testing.assert_allclose(losses, losses_one, rtol=1e-5)
    queue = many.memory["rrd"]
    assert queue.rows.sharding.shard_shape(queue.rows.shape) == (24 // devices, 8)
    np.testing.assert_allclose(queue.rows, one.memory["rrd"].rows, atol=1e-5)
    assert int(queue.cursor) == int(one.memory["rrd"].cursor) == 16 * 20 % 24
    for tree in (many.params, many.opt_state):
        largest = max(jax.tree.leaves(tree), key=lambda leaf: leaf.size)
        part = largest.size // devices if shard_parameters else largest.size
        assert np.prod(largest.sharding.shard_shape(largest.shape)) == part


_COLLECTIVE = re.compile(
    r"= (.*?) (?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)


def _collected_shapes(text):
    """Of every array that a collective of an optimised HLO module brings forth."""
    found = set()
    for kinds in _COLLECTIVE.findall(text):
        found |= {
            tuple(int(n) for n in shape.split(",") if n)
            for shape in re.findall(r"\w+\[([\d,]*)\]", kinds)
        }
    return found


@pytest.mark.parametrize("push_before", [False, True])
@pytest.mark.parametrize("chunk", [0, 512])
def test_the_memory_is_never_gathered(chunk, push_before):
    batch, size, dim = 40, 2048, 24
    mesh = parallel.make_mesh()
    run_state, step, teacher, batches = tiny.job(
        mesh, batch=batch, queue_size=size, dim=dim, chunk=chunk, push_before=push_before
    )
    shapes = _collected_shapes(
        step.lower(run_state, teacher, parallel.put_batch(mesh, batches[0])).compile().as_text()
    )
    assert (batch, dim) in shapes  # the embeddings are
    large = [shape for shape in shapes if np.prod(shape) >= size]
    # What is as large as the memory are gradients of kernels.
    assert {shape[:2] for shape in large} <= {(3, 3), (1, 1)}, large
    assert not [shape for shape in shapes if size in shape or size // mesh.size in shape]


def test_a_push_to_a_split_memory_is_what_it_is_to_a_whole_one():
    from rrd_jax import memory

    mesh = parallel.make_mesh()
    rows = jnp.arange(48 * 3, dtype=jnp.float32).reshape(48, 3)
    push = jax.jit(memory.push)
    for batch in (8, 40, 56):
        pushed = -jnp.arange(batch * 3, dtype=jnp.float32).reshape(batch, 3) - 1
        for cursor in (0, 5, 47):
            queue = memory.Queue(rows, jnp.int32(cursor))
            split = memory.Queue(jax.device_put(rows, parallel.split(mesh)), queue.cursor)
            found = push(split, jax.device_put(pushed, parallel.split(mesh)))
            wanted = push(queue, pushed)
            np.testing.assert_array_equal(found.rows, wanted.rows)
            assert int(found.cursor) == int(wanted.cursor)


@pytest.mark.parametrize("unroll", [False, True])
def test_accumulation_is_the_mean_gradient_of_parts_that_follow_each_other(unroll):
    rate = 0.1
    plain_sgd = optim.sgd(lambda step: rate, momentum=0.0)
    mesh = parallel.make_mesh(jax.devices()[:1])
    start, step, teacher, batches = tiny.job(mesh, optimizer=plain_sgd, accumulate=2, unroll=unroll)
    first = jax.device_get(start.replace(key=()))
    found, logged = step(start, teacher, parallel.put_batch(mesh, batches[0]))

    chex.clear_trace_counter()
    one, step, teacher, _ = tiny.job(mesh, batch=8, optimizer=plain_sgd)
    gradients, losses = [], []
    for i in range(2):
        params = jax.tree.map(jnp.array, first.params)
        one, part = step(
            one.replace(params=params, step=jnp.int32(0)),
            teacher,
            parallel.put_batch(mesh, {k: v[i::2] for k, v in batches[0].items()}),
        )
        losses.append(float(part["loss"]))
        gradients.append(jax.tree.map(lambda a, b: (a - b) / rate, first.params, one.params))
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *gradients)
    for path, wanted in jax.tree_util.tree_leaves_with_path(mean):
        before, after = first.params, found.params
        for key in path:
            before, after = before[key.key], after[key.key]
        np.testing.assert_allclose((before - after) / rate, wanted, atol=2e-4, err_msg=str(path))
    assert float(logged["loss"]) == pytest.approx(np.mean(losses), rel=1e-5)
    # The second part was pushed after the first, and entered the statistics after it.
    chex.assert_trees_all_close(found.memory, one.memory, atol=1e-5)
    chex.assert_trees_all_close(found.batch_stats, one.batch_stats, rtol=1e-4, atol=1e-6)
    assert int(found.step) == 1


def test_accumulation_gives_the_same_on_any_number_of_devices():
    losses_one, _ = _run(1, accumulate=2)
    losses_four, _ = _run(4, accumulate=2, unroll=False)
    np.testing.assert_allclose(losses_four, losses_one, rtol=1e-5)


def test_a_walked_memory_trains_as_a_direct_one():
    losses_direct, _ = _run(4, chunk=0)
    losses_walked, _ = _run(4, chunk=8)
    np.testing.assert_allclose(losses_walked, losses_direct, rtol=1e-5)


def test_a_weight_grows_over_the_epochs_of_its_warmup():
    mesh = parallel.make_mesh(jax.devices()[:1])
    state, step, teacher, batches = tiny.job(mesh, warmup={"kd": 3})
    for i in range(20):  # epochs of 5 steps
        state, logged = step(state, teacher, batches[0])
        parts = {name: float(logged[f"loss/{name}"]) for name in ("ce", "kd", "rrd")}
        share = min((i // 5 + 1) / 3, 1)
        wanted = parts["ce"] + share * parts["kd"] + parts["rrd"]
        assert float(logged["loss"]) == pytest.approx(wanted, rel=1e-5)


def test_the_average_follows_the_student_quickly_at_first():
    mesh = parallel.make_mesh(jax.devices()[:1])
    run_state, step, teacher, batches = tiny.job(mesh, ema=0.15)
    wanted = jax.device_get(run_state.student)
    for i, keep in enumerate((1 / 10, 0.15, 0.15)):  # the second would be 2 / 11
        run_state, _ = step(run_state, teacher, parallel.put_batch(mesh, batches[i]))
        newest = {"params": run_state.params["student"], "batch_stats": run_state.batch_stats}
        wanted = jax.tree.map(
            lambda old, new, keep=keep: keep * old + (1 - keep) * new, wanted, newest
        )
        chex.assert_trees_all_close(run_state.student, wanted, rtol=1e-5, atol=1e-7)


def test_the_step_leaks_no_tracer_makes_no_nan_and_moves_nothing_by_itself():
    mesh = parallel.make_mesh()
    run_state, step, teacher, batches = tiny.job(mesh, accumulate=2, ema=0.9, unroll=False)
    teacher = jax.device_put(teacher, parallel.replicated(mesh))
    batches = [parallel.put_batch(mesh, batch) for batch in batches]
    with jax.checking_leaks(), jax.debug_nans(True):
        run_state, _ = step(run_state, teacher, batches[0])
    with jax.transfer_guard("disallow"):
        run_state, logged = step(run_state, teacher, batches[1])
    assert np.isfinite(float(logged["loss"]))
