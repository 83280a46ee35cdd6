"""The train step on several devices, with accumulation and with a memory in chunks."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, optim, parallel
from rrd_jax.objectives.parts import memory
from rrd_jax.settings import kinds
from tests import tiny


def _run(devices, axes=(), **options):
    """Runs 20 steps; returns their losses and the last state."""
    chex.clear_trace_counter()
    mesh = parallel.make_mesh(jax.devices()[:devices], axes)
    state, step, teacher, batches = tiny.job(mesh, **options)
    losses = []
    for i in range(20):
        batch = tiny.place(mesh, batches[i % len(batches)])
        state, logged = step(state, teacher, batch)
        losses.append(float(logged["loss"]))
    return losses, state


@pytest.fixture(scope="module")
def one_device_run():
    losses, state = _run(1)
    return losses, jax.device_get(state.replace(key=()))


@pytest.mark.parametrize(
    ("devices", "model", "shard_parameters"),
    [
        pytest.param(2, 1, False, marks=pytest.mark.long),
        (8, 1, False),
        pytest.param(8, 4, False, marks=pytest.mark.long),
        pytest.param(4, 1, True, marks=pytest.mark.long),
        pytest.param(8, 1, True, marks=pytest.mark.long),
        pytest.param(8, 2, True, marks=pytest.mark.long),
    ],
)
def test_any_number_of_devices_gives_the_losses_and_the_memory_of_one_device(
    devices, model, shard_parameters, one_device_run
):
    losses_of_one, state_of_one = one_device_run
    axes = [("model", model)]
    losses, state = _run(devices, axes, shard_parameters=shard_parameters)
    np.testing.assert_allclose(losses, losses_of_one, rtol=1e-5)
    queue, queue_of_one = state.memory["rrd"], state_of_one.memory["rrd"]
    assert queue.rows.sharding.shard_shape(queue.rows.shape) == (24 // devices, 8)
    np.testing.assert_allclose(queue.rows, queue_of_one.rows, atol=1e-5)
    assert int(queue.cursor) == int(queue_of_one.cursor) == 16 * 20 % 24
    for tree in (state.params, state.opt_state):
        largest = max(jax.tree.leaves(tree), key=lambda leaf: leaf.size)
        share = largest.size // (devices if shard_parameters else model)
        assert np.prod(largest.sharding.shard_shape(largest.shape)) == share


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ((), {"data": 8}),
        ((("data", 8), ("model", 1)), {"data": 8}),
        ((("model", 4),), {"data": 2, "model": 4}),
        ((("model", 2), ("data", -1)), {"data": 4, "model": 2}),
        ((("data", 2), ("model", -1)), {"data": 2, "model": 4}),
        ((("model", -1),), {"data": 1, "model": 8}),
    ],
)
def test_an_axis_without_a_size_has_all_other_devices(axes, shape):
    mesh = parallel.make_mesh(axes=axes)
    assert dict(mesh.shape) == shape
    assert [device.id for device in mesh.devices.flat] == list(range(8))


@pytest.mark.parametrize("axes", [[("data", 4)], [("data", 4), ("model", 4)], [("model", 3)]])
def test_the_sizes_of_a_mesh_must_multiply_to_the_devices(axes):
    with pytest.raises(errors.FieldError, match="8 devices.*; set it to data:[0-9]+") as caught:
        parallel.make_mesh(axes=axes)
    # The proposed mesh is valid.
    text = str(caught.value).rsplit(" ", 1)[1]
    assert parallel.make_mesh(axes=kinds.Axes(parallel.AXES).value(text)).size == 8


@pytest.mark.parametrize(
    ("devices", "options"),
    [
        (8, {}),
        (8, {"accumulate": 2}),
        (8, {"axes": [("model", 2)]}),
        (8, {"shard_parameters": True}),
        (8, {"batch": 48, "queue_size": 20}),
    ],
)
@pytest.mark.long
def test_relations_of_patches_do_not_depend_on_the_devices(devices, options):
    fixed = {name: options[name] for name in options.keys() - {"axes", "shard_parameters"}}
    expected, state_of_one = _run(1, over="both", **fixed)
    losses, state = _run(devices, over="both", **options)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    memory, memory_of_one = (s.memory["rrd"]["patches"] for s in (state, state_of_one))
    np.testing.assert_allclose(memory.queue.rows, memory_of_one.queue.rows, atol=1e-5)
    assert int(memory.draws) == int(memory_of_one.draws) == 20 * options.get("accumulate", 1)


def _collected_shapes(text):
    """Returns the shapes of all arrays that collectives of an optimized HLO module return."""
    names = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    kinds = " ".join(re.findall(rf"= (.*?) (?:{names})(?:-start)?\(", text))
    shapes = re.findall(r"\w+\[([\d,]*)\]", kinds)
    return {tuple(int(n) for n in shape.split(",") if n) for shape in shapes}


@pytest.mark.parametrize(
    ("chunk", "push_before"),
    [
        (512, True),
        *(pytest.param(*case, marks=pytest.mark.long) for case in ((0, False), (512, False))),
    ],
)
def test_the_memory_is_never_gathered(chunk, push_before):
    batch, size, dim = 40, 2048, 24
    mesh = parallel.make_mesh()
    state, step, teacher, batches = tiny.job(
        mesh, batch=batch, queue_size=size, dim=dim, chunk=chunk, push_before=push_before
    )
    compiled = step.lower(state, teacher, tiny.place(mesh, batches[0])).compile()
    shapes = _collected_shapes(compiled.as_text())
    # The embeddings are gathered.
    assert (batch, dim) in shapes
    large = [shape for shape in shapes if np.prod(shape) >= size]
    # Only gradients of kernels are as large as the memory.
    assert {shape[:2] for shape in large} <= {(3, 3), (1, 1)}, large
    assert not [shape for shape in shapes if size in shape or size // mesh.size in shape]


@pytest.mark.long
def test_the_memory_of_patches_is_never_gathered_and_compared_in_parts():
    batch, size = 40, 2**15
    mesh = parallel.make_mesh()
    state, step, teacher, batches = tiny.job(mesh, batch=batch, queue_size=size, over="both")
    rows = state.memory["rrd"]["patches"].queue.rows
    assert rows.sharding.shard_shape(rows.shape) == (size // 8, 16)
    compiled = step.lower(state, teacher, tiny.place(mesh, batches[0])).compile()
    shapes = _collected_shapes(compiled.as_text())
    assert not [shape for shape in shapes if size in shape or size // 8 in shape]
    # 40 images with 8 patches each.
    assert f"[{2 * 40 * 8},{size // 8}]" not in compiled.as_text()
    assert f"[2,{40 * 8},{size // 8}]" not in compiled.as_text()


def test_a_push_to_a_sharded_memory_equals_a_push_to_an_unsharded_memory():
    mesh = parallel.make_mesh()
    rows = jnp.arange(48 * 3, dtype=jnp.float32).reshape(48, 3)
    push = jax.jit(memory.push)
    for batch in (8, 40, 56):
        pushed = -jnp.arange(batch * 3, dtype=jnp.float32).reshape(batch, 3) - 1
        for cursor in (0, 5, 47):
            queue = memory.Queue(rows, jnp.int32(cursor))
            split = memory.Queue(jax.device_put(rows, parallel.split(mesh)), queue.cursor)
            pushed_to_split = push(split, jax.device_put(pushed, parallel.split(mesh)))
            expected = push(queue, pushed)
            np.testing.assert_array_equal(pushed_to_split.rows, expected.rows)
            assert int(pushed_to_split.cursor) == int(expected.cursor)


@pytest.mark.parametrize(
    ("unroll", "over"),
    [(False, "images"), (True, "images"), (False, "both")],
)
@pytest.mark.long
def test_accumulation_is_the_mean_gradient_of_consecutive_parts(unroll, over):
    rate = 0.1
    optimizer = optim.sgd(lambda step: rate, momentum=0.0)
    mesh = parallel.make_mesh(jax.devices()[:1])
    options = {"optimizer": optimizer, "over": over}
    start, step, teacher, batches = tiny.job(mesh, accumulate=2, unroll=unroll, **options)
    first = jax.device_get(start.replace(key=()))
    accumulated, logged = step(start, teacher, tiny.place(mesh, batches[0]))

    chex.clear_trace_counter()
    state, step, teacher, _ = tiny.job(mesh, batch=8, **options)
    gradients, losses = [], []
    for i in range(2):
        params = jax.tree.map(jnp.array, first.params)
        part = batches[0]._replace(
            image=batches[0].image[i::2], label=batches[0].label[i::2], index=batches[0].index[i::2]
        )
        state, logged_of_part = step(
            state.replace(params=params, step=jnp.int32(0)), teacher, tiny.place(mesh, part)
        )
        losses.append(float(logged_of_part["loss"]))
        gradients.append(jax.tree.map(lambda a, b: (a - b) / rate, first.params, state.params))
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *gradients)
    for path, expected in jax.tree_util.tree_leaves_with_path(mean):
        before, after = first.params, accumulated.params
        for key in path:
            before, after = before[key.key], after[key.key]
        np.testing.assert_allclose((before - after) / rate, expected, atol=2e-4, err_msg=str(path))
    assert float(logged["loss"]) == pytest.approx(np.mean(losses), rel=1e-5)
    # The second part updates the memory and the batch statistics after the first part.
    chex.assert_trees_all_close(accumulated.memory, state.memory, atol=1e-5)
    chex.assert_trees_all_close(accumulated.batch_stats, state.batch_stats, rtol=1e-4, atol=1e-6)
    assert int(accumulated.step) == 1


@pytest.mark.long
def test_accumulation_and_a_memory_in_chunks_give_the_losses_of_one_device(one_device_run):
    losses_of_one, _ = _run(1, accumulate=2)
    losses_of_four, _ = _run(4, accumulate=2, unroll=False)
    np.testing.assert_allclose(losses_of_four, losses_of_one, rtol=1e-5)
    losses, _ = _run(4, chunk=8)
    np.testing.assert_allclose(losses, one_device_run[0], rtol=1e-5)


@pytest.fixture(scope="module")
def history():
    """States and metrics of 20 steps with a weight average and a warm-up of KD."""
    chex.clear_trace_counter()
    mesh = parallel.make_mesh(jax.devices()[:1])
    state, step, teacher, batches = tiny.job(mesh, warmup=3, ema=0.15)
    states, logs = [jax.device_get(state.replace(key=()))], []
    for _ in range(20):
        state, logged = step(state, teacher, tiny.place(mesh, batches[0]))
        states.append(jax.device_get(state.replace(key=())))
        logs.append(logged)
    return states, logs


@pytest.mark.long
def test_a_weight_increases_over_the_epochs_of_its_warmup(history):
    # Epochs of 5 steps.
    for i, logged in enumerate(history[1]):
        losses = {name: float(logged[f"loss/{name}"]) for name in ("ce", "kd", "rrd")}
        share = min((i // 5 + 1) / 3, 1)
        expected = losses["ce"] + share * losses["kd"] + losses["rrd"]
        assert float(logged["loss"]) == pytest.approx(expected, rel=1e-5)


def test_the_decay_of_the_average_is_smaller_in_the_first_steps(history):
    (start, *states), _ = history
    expected = start.student
    # The decay is at most 0.15; without the limit, the second would be 2 / 11.
    for decay, state in zip((1 / 10, 0.15, 0.15), states, strict=False):
        newest = {"params": state.params["student"], "batch_stats": state.batch_stats}
        expected = jax.tree.map(
            lambda old, new, decay=decay: decay * old + (1 - decay) * new, expected, newest
        )
        chex.assert_trees_all_close(state.student, expected, rtol=1e-5, atol=1e-7)


def test_the_step_leaks_no_tracers_and_computes_no_nan_and_transfers_nothing_implicitly():
    mesh = parallel.make_mesh()
    state, step, teacher, batches = tiny.job(mesh, accumulate=2, ema=0.9, unroll=False)
    teacher = jax.device_put(teacher, parallel.replicated(mesh))
    batches = [tiny.place(mesh, batch) for batch in batches]
    with jax.checking_leaks(), jax.debug_nans(True):
        state, _ = step(state, teacher, batches[0])
    with jax.transfer_guard("disallow"):
        state, logged = step(state, teacher, batches[1])
    assert np.isfinite(float(logged["loss"]))
