import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import memory, objectives, parallel, state
from rrd_jax.networks import Outputs
from rrd_jax.objectives import bank, negatives
from tests import devices_test, golden

_FILES = [("crd_momentum", "crit.memory.", "crit.memory.contrast."),
          ("imagenet_crd", "crit.", "crit.contrast.")]  # fmt: skip


def _layer(file, name):
    entry = name if f"param/{name}.weight" in file else f"{name}.linear"
    return golden.linear(file, entry), f"grad/param/{entry}"


def banks_of(file, entry):
    """The state that a golden file's buffers hold."""
    _, _, *constants, _ = file[f"{entry}params"]
    examples = len(file[f"{entry}memory_v1"])
    return bank.Banks(
        memory.Bank(jnp.asarray(file[f"{entry}memory_v1"])),
        memory.Bank(jnp.asarray(file[f"{entry}memory_v2"])),
        jnp.maximum(jnp.stack(constants), 0),
        negatives.init(examples),
    )


def check_banks(found, file, entry):
    """Asserts that they are what a golden file's buffers hold."""
    np.testing.assert_allclose(found.student.rows, file[f"{entry}memory_v1"], rtol=0, atol=2e-7)
    np.testing.assert_allclose(found.teacher.rows, file[f"{entry}memory_v2"], rtol=0, atol=2e-7)
    np.testing.assert_allclose(found.constants, file[f"{entry}params"][2:4], rtol=3e-6)


@pytest.mark.parametrize(("name", "layers", "buffers"), _FILES)
def test_crd_golden_loss_gradients_banks_and_constants(name, layers, buffers, monkeypatch):
    file = golden.load(name)
    objective = objectives.create("crd", memory="bank", negatives=32, dim=16, examples=200)
    (student_layer, student_entry), (teacher_layer, teacher_entry) = (
        _layer(file, f"{layers}{x}") for x in ("embed_s", "embed_t")
    )
    params = {"student": student_layer, "teacher": teacher_layer}
    frozen = jax.random.key_data(jax.random.key(0))
    for step in ("step0/", "step1/"):
        drawn = jnp.asarray(file[f"{step}in/contrast_idx"][:, 1:])
        monkeypatch.setattr(negatives, "draw", lambda *args, drawn=drawn: drawn)
        before = banks_of(file, f"{step}buf_before/{buffers}")
        index = jnp.asarray(file[f"{step}in/idx"])

        def loss(params, student, step=step, before=before, index=index):
            outputs = (Outputs(jnp.zeros(()), x) for x in (student, file[f"{step}in/f_t"]))
            state = objectives.ObjectiveState(params, frozen, before)
            batch = {"index": index, "label": jnp.zeros_like(index)}
            losses, moved = objective.loss(state, *outputs, batch)
            return jnp.mean(losses), moved

        (value, moved), (gradients, features) = jax.jit(
            jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        )(params, file[f"{step}in/f_s"])
        assert golden.relative(value, file[f"{step}out/loss"]) < 1e-5
        assert golden.relative(features, file[f"{step}grad/in/f_s"]) < 1e-5
        golden.check_linear(gradients["student"], file, f"{step}{student_entry}")
        golden.check_linear(gradients["teacher"], file, f"{step}{teacher_entry}")
        check_banks(moved, file, f"{step}buf_after/{buffers}")


def test_similarities_in_parts_are_those_of_all(monkeypatch):
    rng = np.random.default_rng(0)
    embeddings, rows = (jnp.asarray(rng.standard_normal((n, 5)), jnp.float32) for n in (3, 40))
    places = jnp.asarray(rng.integers(0, 40, (3, 17)))

    def total(embeddings):
        found = bank.similarities(embeddings, rows, places)
        return jnp.sum(jnp.sin(found)), found

    (_, direct), gradient = jax.value_and_grad(total, has_aux=True)(embeddings)
    np.testing.assert_allclose(direct, np.einsum("bd,bkd->bk", embeddings, rows[places]), rtol=1e-5)
    for limit in (1, 3 * 5 * 4, 3 * 40 - 1):  # 1, 4 and 7 places at a time
        monkeypatch.setattr(bank, "_DIRECT", limit)
        (_, found), other = jax.value_and_grad(total, has_aux=True)(embeddings)
        np.testing.assert_allclose(found, direct, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(other, gradient, rtol=1e-5, atol=1e-6)


def _shapes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (v.aval.shape for v in equation.outvars)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _shapes(inner)


@pytest.mark.parametrize("limit", [2**25, 16 * 2000 - 1])
def test_no_array_holds_a_row_for_every_pair(limit, monkeypatch):
    monkeypatch.setattr(bank, "_DIRECT", limit)
    batch, dim, count, examples = 16, 32, 1024, 2000
    objective = objectives.create("crd", memory="bank", negatives=count, dim=dim, examples=examples)
    outputs = [Outputs(jnp.zeros(()), jnp.ones((batch, n))) for n in (4, 5)]
    state = objective.init(jax.random.key(0), *outputs)
    index = jnp.arange(batch)

    def loss(params):
        batch = {"index": index, "label": index % 7}
        return jnp.mean(objective.loss(state._replace(params=params), *outputs, batch)[0])

    jaxpr = jax.make_jaxpr(jax.grad(loss))(state.params).jaxpr
    sizes = [np.prod(shape, dtype=int) for shape in _shapes(jaxpr)]
    assert max(sizes) <= max(examples * dim, batch * examples)
    assert max(sizes) < batch * count * dim


def test_the_constants_come_from_the_first_batch_and_stay():
    objective = objectives.create("crd", memory="bank", negatives=6, dim=4, examples=20)
    rng = np.random.default_rng(0)
    outputs = [Outputs(jnp.zeros(()), jnp.asarray(rng.standard_normal((5, n)))) for n in (3, 6)]
    state = objective.init(jax.random.key(0), *outputs)
    batch = {"index": jnp.arange(5), "label": jnp.arange(5) % 2}
    _, first = objective.loss(state, *outputs, batch)
    assert np.all(first.constants > 0)
    _, second = objective.loss(state._replace(memory=first), *outputs, batch)
    np.testing.assert_array_equal(second.constants, first.constants)
    assert (int(first.met.draws), int(second.met.draws)) == (1, 2)
    np.testing.assert_array_equal(first.met.labels[:6], [0, 1, 0, 1, 0, -1])


def test_the_banks_are_never_gathered():
    batch_size, examples = 40, 4096
    objective = objectives.create("crd", memory="bank", negatives=512, dim=24, examples=examples)
    outputs = [Outputs(jnp.zeros(()), jnp.ones((batch_size, n))) for n in (7, 9)]
    start = objective.init(jax.random.key(0), *outputs)
    index = jnp.arange(batch_size)

    def loss(params, memory, outputs, batch):
        own = objectives.ObjectiveState(params, start.frozen, memory)
        losses, left = objective.loss(own, *outputs, batch)
        return jnp.mean(losses), left

    mesh = parallel.make_mesh()
    shape = state.TrainState(*[()] * 6, memory=start.memory, key=())
    shardings = parallel.state_shardings(mesh, shape).memory
    embeddings, batch = jax.device_put(
        ([x.embedding for x in outputs], {"index": index, "label": index % 7}),
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
    assert (batch_size, 24) in shapes  # the embeddings are
    assert not [shape for shape in shapes if {examples, examples // mesh.size} & set(shape)]
