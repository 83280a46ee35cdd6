import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rrd_jax import objectives, parallel
from rrd_jax.cpu import convolutions
from rrd_jax.objectives import rrd
from tests.objectives import batches


def _arrays(size, batch=6, dim=16, seed=0):
    rng = np.random.default_rng(seed)
    arrays = (rng.standard_normal((n, dim)) for n in (batch, batch, size))
    return [a / np.linalg.norm(a, axis=-1, keepdims=True) for a in arrays]


def _reference64(student, teacher, rows, tau_s, tau_t):
    """Returns the losses [B] and their gradient for the student [B, D]."""
    log_p_s, log_p_t = (
        x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - x.max(-1, keepdims=True)
        for x in (student @ rows.T / tau_s, teacher @ rows.T / tau_t)
    )  # fmt: skip
    p_t = np.exp(log_p_t)
    return -(p_t * log_p_s).sum(-1), (np.exp(log_p_s) - p_t) @ rows / tau_s


def _loss(student, teacher, rows, tau_s, tau_t, chunk):
    return rrd.relational_loss(
        student, teacher, rows, temperature_student=tau_s, temperature_teacher=tau_t, chunk=chunk
    )


_VALUES = jax.jit(_loss, static_argnums=(3, 4, 5))


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _values_and_gradient(*arguments):
    def total(student, *others):
        losses = _loss(student, *others)
        return jnp.sum(losses), losses

    (_, losses), gradient = jax.value_and_grad(total, has_aux=True)(*arguments)
    return losses, gradient


def _check(arrays, tau_s, tau_t, chunk):
    """Asserts that the losses, with and without gradient, and the gradient equal float64.

    A similarity has an error of about 1e-7 / temperature. The teacher's error changes the weights
    of the student's similarities, which differ by up to 1 / tau_s.
    """
    arrays32 = [jnp.asarray(a, jnp.float32) for a in arrays]
    arrays64 = [np.asarray(a, np.float64) for a in arrays32]
    expected, direction = _reference64(*arrays64, tau_s, tau_t)
    losses, gradient = _values_and_gradient(*arrays32, tau_s, tau_t, chunk)
    close = {"rtol": 2e-6, "atol": 2e-8 / (tau_s * tau_t)}
    np.testing.assert_allclose(losses, expected, **close)
    np.testing.assert_allclose(_VALUES(*arrays32, tau_s, tau_t, chunk), losses, **close)
    # The error of the difference of two weighted means of rows, each of norm at most 1.
    error = 2e-6 + 3e-8 / min(tau_s, tau_t)
    np.testing.assert_allclose(gradient * tau_s, direction * tau_s, rtol=0, atol=error)


# One row, a prime, less than a chunk, a multiple of a chunk, chunks of one row, no chunks.
@pytest.mark.parametrize(
    ("size", "chunk"),
    [(1, None), (997, None), (997, 100), (640, 1024), (1280, 256), (200, 1), (997, 0)],
)
@pytest.mark.parametrize(("tau_s", "tau_t"), [(0.04, 0.1), (0.1, 0.02), (0.01, 0.01), (1.0, 1.0)])
def test_value_and_gradient_equal_float64(size, chunk, tau_s, tau_t):
    _check(_arrays(size), tau_s, tau_t, chunk)


@pytest.mark.parametrize("temperature", [0.01, 0.02, 0.1, 1.0])
def test_repeated_rows_and_the_images_key_each_count_once(temperature):
    _, teacher, rows = _arrays(300)
    student = teacher + 0.05 * _arrays(300, seed=1)[0]
    rows = np.concatenate([teacher, rows, teacher[:2], rows[:5]])
    _check((student, teacher, rows), temperature, temperature, 64)


def test_a_loss_near_zero_is_exact_to_the_last_digit():
    # The image's key is in the memory, so that the loss is a difference of nearly equal numbers.
    teacher = np.eye(6, 16)
    near = 0.8 * teacher + 0.6 * np.eye(16)[6:12]
    student, rows = teacher + 1e-3 * _arrays(300)[0], np.concatenate([teacher, near])
    arrays = [jnp.asarray(a, jnp.float32) for a in (student, teacher, rows)]
    expected, _ = _reference64(*(np.asarray(a, np.float64) for a in arrays), 0.02, 0.02)
    assert expected.max() < 1e-3
    np.testing.assert_allclose(_loss(*arrays, 0.02, 0.02, None), expected, rtol=0, atol=5e-7)


# Less than a block of images on a CPU, two blocks, and three blocks that do not divide the batch.
@pytest.mark.parametrize("batch", [1, 300, 700])
def test_a_large_batch_in_blocks_gives_the_same_values(batch):
    _check(_arrays(600, batch=batch), 0.04, 0.1, None)


# Less than the rows that several cores process at once, that number, one more, and several chunks
# with a remainder.
@pytest.mark.parametrize("size", [100, 2048, 2049, 5000])
@pytest.mark.parametrize("batch", [3, 300])
@pytest.mark.long
def test_several_cores_give_the_values_of_one_core(size, batch):
    arrays = [jnp.asarray(a, jnp.float32) for a in _arrays(size, batch=batch)]
    temperatures = (0.04, 0.1, None)
    expected = _values_and_gradient(*arrays, *temperatures)
    walk = convolutions.fast(
        lambda *a: _values_and_gradient.__wrapped__(*a, *temperatures), cores=2
    )
    losses, gradient = jax.jit(walk)(*arrays)
    np.testing.assert_allclose(losses, expected[0], rtol=2e-6)
    np.testing.assert_allclose(gradient, expected[1], rtol=0, atol=2e-6 * np.abs(expected[1]).max())
    stacks = [jnp.stack([array, array[::-1]]) for array in arrays]
    for stacked in jax.jit(jax.vmap(walk))(*stacks)[0]:
        np.testing.assert_allclose(np.sort(stacked), np.sort(losses), rtol=2e-6)


def test_sums_over_a_million_rows_are_as_exact():
    _check(_arrays(1_000_003, batch=3, dim=4), 0.04, 0.1, None)


def test_a_value_without_a_gradient_takes_one_product_instead_of_two():
    arrays = [jnp.asarray(a, jnp.float32) for a in _arrays(300)]

    def value(student):
        return jnp.sum(_loss(student, *arrays[1:], 0.1, 0.1, 0))

    assert str(jax.make_jaxpr(value)(arrays[0])).count("dot_general") == 1
    assert str(jax.make_jaxpr(jax.grad(value))(arrays[0])).count("dot_general") == 2


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_embeddings_give_float32_losses_and_gradients_of_the_input_type(dtype):
    arrays = [jnp.asarray(a, dtype) for a in _arrays(300)]
    arrays64 = [np.asarray(a, np.float64) for a in arrays]
    losses, gradient = _values_and_gradient(*arrays, 0.1, 0.1, 64)
    assert losses.dtype == jnp.float32
    assert gradient.dtype == dtype
    np.testing.assert_allclose(losses, _reference64(*arrays64, 0.1, 0.1)[0], rtol=1e-5)


def _values_with_extra_rows(extra_rows, *arguments):
    student, teacher, rows, tau_s, tau_t, chunk = arguments

    def total(student):
        losses = rrd.relational_loss(
            *(student, teacher, rows),
            temperature_student=tau_s,
            temperature_teacher=tau_t,
            extra_rows=extra_rows,
            chunk=chunk,
        )
        return jnp.sum(losses), losses

    (_, losses), gradient = jax.value_and_grad(total, has_aux=True)(student)
    return losses, gradient


# The first temperatures are SEED's. The memory is one chunk or several.
@pytest.mark.parametrize(("tau_s", "tau_t"), [(0.2, 1e-4), (0.04, 0.1), (0.02, 0.02)])
@pytest.mark.parametrize("chunk", [None, 64])
@pytest.mark.parametrize("is_key", [True, False])
def test_extra_rows_add_one_row_for_each_image(tau_s, tau_t, chunk, is_key):
    student, teacher, rows = _arrays(300)
    extra_rows = teacher if is_key else _arrays(300, seed=1)[0]
    arrays = [jnp.asarray(a, jnp.float32) for a in (student, teacher, rows, extra_rows)]
    student, teacher, rows, extra_rows = (np.asarray(a, np.float64) for a in arrays)
    references = [
        _reference64(
            student[i : i + 1], teacher[i : i + 1], np.vstack([extra_rows[i], rows]), tau_s, tau_t
        )
        for i in range(len(extra_rows))
    ]
    expected, direction = (np.concatenate(parts) for parts in zip(*references, strict=True))
    arguments = (*arrays[:3], tau_s, tau_t, chunk)
    losses, gradient = jax.jit(_values_with_extra_rows, static_argnums=(4, 5, 6))(
        arrays[3], *arguments
    )
    error = 2e-6 + 3e-8 / min(tau_s, tau_t)
    np.testing.assert_allclose(losses, expected, rtol=2e-6, atol=2e-8 / (tau_s * tau_t))
    np.testing.assert_allclose(gradient * tau_s, direction * tau_s, rtol=0, atol=error)


@pytest.mark.parametrize(("batch", "size"), [(16, 1600), (16, 1601), (10, 1601)])
def test_extra_rows_give_the_same_values_on_eight_devices(batch, size):
    mesh = parallel.make_mesh()
    arrays = [jnp.asarray(a, jnp.float32) for a in _arrays(size, batch=batch)]
    step = functools.partial(_values_with_extra_rows, arrays[1])
    expected = jax.jit(lambda *a: step(*a, 0.2, 0.1, None))(*arrays)
    actual = jax.jit(parallel.with_mesh(mesh, lambda *a: step(*a, 0.2, 0.1, None)))(
        *parallel.put(parallel.replicated(mesh), arrays)
    )
    for leaf, expected_leaf in zip(actual, expected, strict=True):
        bound = 2e-6 * np.abs(expected_leaf).max()
        np.testing.assert_allclose(leaf, expected_leaf, rtol=0, atol=bound)


_REDUCTION = re.compile(r"= (.*?) (all-reduce|reduce-scatter)(?:-start)?\(")
_GATHER = re.compile(r"= (.*?) (?:all-gather|all-to-all|collective-permute)(?:-start)?\(")


# The number of devices divides rows and images, only the rows, only the images, or neither.
@pytest.mark.parametrize(("batch", "size"), [(16, 1600), (10, 1600), (16, 1601), (10, 1601)])
@pytest.mark.parametrize("chunk", [None, 64, 0])
def test_eight_devices_give_the_values_of_one_device(batch, size, chunk):
    mesh, dim = parallel.make_mesh(), 24
    arrays = [jnp.asarray(a, jnp.float32) for a in _arrays(size, batch=batch, dim=dim)]
    expected = _values_and_gradient(*arrays, 0.04, 0.1, chunk)
    shardings = [
        parallel.split(mesh) if n % mesh.size == 0 else parallel.replicated(mesh)
        for n in (batch, batch, size)
    ]

    @functools.partial(jax.jit, in_shardings=tuple(shardings))
    @functools.partial(parallel.with_mesh, mesh)
    def compare(*arrays):
        return _values_and_gradient(*arrays, 0.04, 0.1, chunk)

    losses, gradient = compare(*arrays)
    np.testing.assert_allclose(losses, expected[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, expected[1], rtol=0, atol=2e-6 * np.abs(expected[1]).max())
    text = compare.lower(*arrays).compile().as_text()
    gathered = " ".join(_GATHER.findall(text))
    assert not re.search(rf"\[\d*,?({size}|{size // mesh.size}|\d\d\d+),", gathered), gathered
    reductions = _REDUCTION.findall(text)
    assert len(reductions) == (2 if size % mesh.size == 0 else 0), reductions


def test_the_callers_mesh_is_used_and_the_callers_shard_map_is_respected():
    mesh = parallel.make_mesh()
    arrays = [jnp.asarray(a, jnp.float32) for a in _arrays(160, batch=16)]
    expected = _values_and_gradient(*arrays, 0.04, 0.1, 64)
    split, replicated = parallel.split(mesh).spec, PartitionSpec()
    values = functools.partial(_values_and_gradient.__wrapped__)

    def compare(*arrays):
        return values(*arrays, 0.04, 0.1, 64)

    sharded = jax.shard_map(
        compare, mesh=mesh, in_specs=(split, split, replicated), out_specs=(split, split)
    )
    with jax.set_mesh(mesh):
        actual = jax.jit(compare)(*arrays)
        inside = jax.jit(sharded)(*arrays)
    for losses, gradient in (actual, inside, jax.jit(sharded)(*arrays)):
        np.testing.assert_allclose(losses, expected[0], rtol=1e-6)
        np.testing.assert_allclose(gradient, expected[1], atol=2e-6 * np.abs(expected[1]).max())


@pytest.mark.parametrize("devices", [1, 8])
def test_vmap_and_scan_give_the_values_of_single_calls(devices):
    mesh = parallel.make_mesh(jax.devices()[:devices])
    student, teacher, rows = (
        jnp.asarray(np.stack(stack), jnp.float32)
        for stack in zip(*(_arrays(160, batch=16, seed=seed) for seed in range(3)), strict=True)
    )

    def compare(student, teacher, rows):
        return _values_and_gradient(student, teacher, rows, 0.04, 0.1, 64)

    def looped(*stacks):
        step = jax.checkpoint(lambda _, arrays: (None, compare(*arrays)))
        return jax.lax.scan(step, None, stacks)[1]

    alone = [compare(*arrays) for arrays in zip(student, teacher, rows, strict=True)]
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    for function in (jax.vmap(compare), looped):
        on_mesh = parallel.put(parallel.replicated(mesh), (student, teacher, rows))
        actual = jax.jit(parallel.with_mesh(mesh, function))(*on_mesh)
        for leaf, expected_leaf in zip(actual, expected, strict=True):
            np.testing.assert_allclose(leaf, expected_leaf, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_extreme_similarities_stay_finite(scale):
    student, teacher, rows = (jnp.asarray(a, jnp.float32) for a in _arrays(300))

    def total(student):
        return jnp.sum(_loss(student, teacher * scale, rows, 0.02, 0.02, 64))

    value, gradient = jax.jit(jax.value_and_grad(total))(student * scale)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_teacher_and_memory_have_no_gradient():
    arrays = [jnp.asarray(a, jnp.float32) for a in _arrays(300)]
    actual = jax.grad(lambda *a: jnp.sum(_loss(*a, 0.1, 0.1, 64)), argnums=(0, 1, 2))(*arrays)
    assert np.abs(actual[0]).max() > 0
    np.testing.assert_array_equal(actual[1], 0)
    np.testing.assert_array_equal(actual[2], 0)


# The queue is updated in place, so the temporary memory does not depend on its size.
@pytest.mark.parametrize("rows", [16_384, 1_048_576])
@pytest.mark.parametrize("batch", [256, 4096])
def test_the_step_needs_less_than_64_mib_of_temporary_memory_for_any_queue_size(rows, batch):
    dim = 128
    objective = objectives.create("rrd", queue_size=rows, dim=dim)
    outputs = _Outputs(jax.ShapeDtypeStruct((batch, 64), jnp.float32))
    state = jax.eval_shape(lambda: objective.init(jax.random.key(0), outputs, outputs))

    def step(memory, params, frozen, student, teacher):
        def mean(params):
            before = state._replace(params=params, frozen=frozen, memory=memory)
            losses, pushed = objective.loss(
                before, _Outputs(student), _Outputs(teacher), batches.NO_BATCH
            )
            return jnp.mean(losses), pushed

        return jax.value_and_grad(mean, has_aux=True)(params)

    compiled = (
        jax.jit(step, donate_argnums=0)
        .lower(state.memory, state.params, state.frozen, *[outputs.embedding] * 2)
        .compile()
    )
    assert compiled.memory_analysis().temp_size_in_bytes < 64 * 2**20
    assert f"{batch},{rows}" not in compiled.as_text()


class _Outputs:
    def __init__(self, embedding):
        self.embedding = embedding
