import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import objectives, parallel
from rrd_jax.networks import Outputs
from rrd_jax.objectives.parts import banks
from rrd_jax.training import state
from tests.objectives import batches
from tests.parallel import devices_test


def test_similarities_in_chunks_equal_those_of_one_product(monkeypatch):
    rng = np.random.default_rng(0)
    embeddings, rows = (jnp.asarray(rng.standard_normal((n, 5)), jnp.float32) for n in (3, 40))
    positions = jnp.asarray(rng.integers(0, 40, (3, 17)))

    def total(embeddings):
        actual = banks.similarities(embeddings, rows, positions)
        return jnp.sum(jnp.sin(actual)), actual

    (_, direct), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(embeddings)
    np.testing.assert_allclose(
        direct, np.einsum("bd,bkd->bk", embeddings, rows[positions]), rtol=1e-5
    )
    monkeypatch.setattr(banks, "_DIRECT", 3 * 40 - 1)
    # Chunks of 1, 4 and 7 positions.
    for limit in (1, 3 * 5 * 4, 3 * 40 - 1):
        monkeypatch.setattr(banks, "_AT_ONCE", limit)
        # A new function object forces a new trace.
        differentiate = jax.value_and_grad(lambda x: total(x), has_aux=True)
        (_, actual), other = jax.jit(differentiate)(embeddings)
        np.testing.assert_allclose(actual, direct, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(other, gradient, rtol=1e-5, atol=1e-6)


def test_rows_gathered_from_a_large_bank_need_little_memory():
    batch, count, examples, dim = 64, 1000, 50_000, 256
    shapes = [(batch, dim), (examples, dim), (batch, count)]
    arrays = [jax.ShapeDtypeStruct(s, t) for s, t in zip(shapes, "ffi", strict=True)]
    gradient = jax.grad(lambda *arrays: jnp.sum(jnp.sin(banks.similarities(*arrays))))
    memory = jax.jit(gradient).lower(*arrays).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2**25 < 4 * batch * count * dim


def _shapes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (v.aval.shape for v in equation.outvars)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _shapes(inner)


@pytest.mark.parametrize("limit", [2**25, 16 * 2000 - 1])
def test_no_array_holds_a_row_for_every_pair(limit, monkeypatch):
    monkeypatch.setattr(banks, "_DIRECT", limit)
    monkeypatch.setattr(banks, "_AT_ONCE", limit)
    batch, dim, count, examples = 16, 32, 1024, 2000
    objective = objectives.create("crd", memory="bank", negatives=count, dim=dim, examples=examples)
    outputs = [Outputs(jnp.zeros(()), jnp.ones((batch, n))) for n in (4, 5)]
    state = jax.jit(objective.init)(jax.random.key(0), *outputs)
    index = jnp.arange(batch)

    def loss(params):
        batch = batches.from_labels(index % 7, index)
        return jnp.mean(objective.loss(state._replace(params=params), *outputs, batch)[0])

    jaxpr = jax.make_jaxpr(jax.grad(loss))(state.params).jaxpr
    sizes = [np.prod(shape, dtype=int) for shape in _shapes(jaxpr)]
    assert max(sizes) <= max(examples * dim, batch * examples)
    assert max(sizes) < batch * count * dim


def test_the_constants_are_set_by_the_first_batch():
    objective = objectives.create("crd", memory="bank", negatives=6, dim=4, examples=20)
    rng = np.random.default_rng(0)
    outputs = [Outputs(jnp.zeros(()), jnp.asarray(rng.standard_normal((5, n)))) for n in (3, 6)]
    state = jax.jit(objective.init)(jax.random.key(0), *outputs)
    batch = batches.from_labels(jnp.arange(5) % 2)
    loss = jax.jit(objective.loss)
    _, first = loss(state, *outputs, batch)
    assert np.all(first.constants > 0)
    _, second = loss(state._replace(memory=first), *outputs, batch)
    np.testing.assert_array_equal(second.constants, first.constants)
    assert (int(first.met.draws), int(second.met.draws)) == (1, 2)
    np.testing.assert_array_equal(first.met.labels[:6], [0, 1, 0, 1, 0, -1])


# With 512 negatives, all rows are compared; with 64, only selected rows.
@pytest.mark.parametrize("negatives", [512, 64])
def test_the_banks_are_never_gathered(negatives):
    batch_size, examples = 40, 4096
    objective = objectives.create(
        "crd", memory="bank", negatives=negatives, dim=24, examples=examples
    )
    outputs = [Outputs(jnp.zeros(()), jnp.ones((batch_size, n))) for n in (7, 9)]
    start = jax.jit(objective.init)(jax.random.key(0), *outputs)
    index = jnp.arange(batch_size)

    def loss(params, memory, outputs, batch):
        before = objectives.ObjectiveState(params, start.frozen, memory)
        losses, after = objective.loss(before, *outputs, batch)
        return jnp.mean(losses), after

    mesh = parallel.make_mesh()
    shape = state.TrainState(*[()] * 6, memory=start.memory, key=())
    shardings = parallel.state_shardings(mesh, shape).memory
    embeddings, batch = jax.device_put(
        ([x.embedding for x in outputs], batches.from_labels(index % 7, index)),
        parallel.split(mesh),
    )
    step = jax.jit(
        lambda params, memory, embeddings, batch: jax.grad(loss, has_aux=True)(
            params, memory, [Outputs(jnp.zeros(()), x) for x in embeddings], batch
        ),
        out_shardings=(parallel.replicated(mesh), shardings),
    )
    memory = jax.device_put(start.memory, shardings)
    text = step.lower(start.params, memory, embeddings, batch).compile().as_text()
    shapes = devices_test._collected_shapes(text)
    # Only the embeddings are gathered.
    assert (batch_size, 24) in shapes
    assert not [shape for shape in shapes if {examples, examples // mesh.size} & set(shape)]
