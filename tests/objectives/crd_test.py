import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.networks import Outputs
from rrd_jax.objectives import crd
from rrd_jax.objectives.parts import memory, negatives
from tests import golden
from tests.objectives import batches, golden_banks


def _layers(file, prefix):
    return {
        "student": golden.linear(file, f"{prefix}embed_s"),
        "teacher": golden.linear(file, f"{prefix}embed_t"),
    }


@pytest.mark.parametrize("name", ["crd_fifo", "crd_fifo_two_calls_wrap"])
def test_crd_has_the_golden_loss_gradients_and_queue(name):
    file = golden.load(name)
    objective = objectives.create(
        "crd", temperature=float(file["hp/nce_t"]), negatives=64, dim=16, push_before=True
    )
    for step in ("step0/", "step1/") if "step0/out/loss" in file else ("",):
        before = f"{step}buf_before/crd.memory.queue"
        queue = memory.Queue(jnp.asarray(file[before]), jnp.int32(file[f"{before}_ptr"][0]))

        def loss(params, student, step=step, queue=queue):
            outputs = (Outputs(jnp.zeros(()), x) for x in (student, file[f"{step}in/f_t"]))
            state = objectives.ObjectiveState(params, memory=queue)
            losses, pushed = objective.loss(state, *outputs, batches.NO_BATCH)
            return jnp.mean(losses), pushed

        (value, pushed), (layers, features) = jax.jit(
            jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        )(_layers(file, "crd.memory."), file[f"{step}in/f_s"])
        assert golden.relative(value, file[f"{step}out/loss"]) < 1e-5
        assert golden.relative(features, file[f"{step}grad/in/f_s"]) < 1e-5
        for key, entry in (("student", "embed_s"), ("teacher", "embed_t")):
            golden.check_linear(layers[key], file, f"{step}grad/param/crd.memory.{entry}")
        after = f"{step}buf_after/crd.memory.queue"
        np.testing.assert_allclose(pushed.rows, file[after], rtol=0, atol=2e-7)
        assert int(pushed.cursor) == file[f"{after}_ptr"][0]


def _unit(rng, *shape):
    x = rng.standard_normal(shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
def test_infonce_equals_float64(temperature):
    rng = np.random.default_rng(0)
    student, teacher, rows = _unit(rng, 5, 8), _unit(rng, 5, 8), _unit(rng, 30, 8)
    positive = (student * teacher).sum(-1, keepdims=True)
    logits = np.concatenate([positive, student @ rows.T], axis=1) / temperature
    top = logits.max(1, keepdims=True)
    expected = np.log(np.exp(logits - top).sum(1)) + top[:, 0] - logits[:, 0]
    actual = crd.infonce_loss(
        *(jnp.asarray(x, jnp.float32) for x in (student, teacher, rows)), temperature=temperature
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_pushing_before_the_loss_adds_each_image_to_its_negatives():
    rng = np.random.default_rng(0)
    outputs = [Outputs(jnp.zeros(()), jnp.asarray(_unit(rng, 6, n), jnp.float32)) for n in (4, 5)]
    losses = {}
    for before in (False, True):
        objective = objectives.create(
            "crd", negatives=6, dim=4, temperature=1e-3, push_before=before
        )
        state = jax.jit(objective.init)(jax.random.key(0), *outputs)
        # An ideal student: no row of the queue has the direction of its embedding.
        layers = {"student": state.params["teacher"], "teacher": state.params["teacher"]}
        same = (outputs[1], outputs[1])
        losses[before], _ = jax.jit(objective.loss)(
            state._replace(params=layers), *same, batches.NO_BATCH
        )
    # The scores are near 1000, where neighboring float32 numbers differ by 6e-5.
    assert np.all(losses[True] >= np.log(2) - 1e-4)
    assert np.min(losses[False]) < 0.1


def test_values_out_of_range_are_refused():
    with pytest.raises(errors.InputError, match="known: fifo, bank"):
        objectives.create("crd", memory="queue")
    with pytest.raises(errors.InputError, match="negatives is 0"):
        objectives.create("crd", negatives=0)
    with pytest.raises(errors.InputError, match="a bank needs examples"):
        objectives.create("crd", memory="bank")
    with pytest.raises(errors.InputError, match="temperature of a bank is 0.01"):
        objectives.create("crd", memory="bank", examples=10, temperature=0.01)
    with pytest.raises(errors.InputError, match="momentum is 1"):
        objectives.create("crd", memory="bank", examples=10, momentum=1)
    with pytest.raises(errors.InputError, match=r"must be \[K, D\]"):
        crd.infonce_loss(jnp.ones((2, 3)), jnp.ones((2, 3)), jnp.ones((4, 5)), temperature=1.0)


_FILES = [("crd_momentum", "crit.memory.", "crit.memory.contrast."),
          ("imagenet_crd", "crit.", "crit.contrast.")]  # fmt: skip


def _layer(file, name):
    entry = name if f"param/{name}.weight" in file else f"{name}.linear"
    return golden.linear(file, entry), f"grad/param/{entry}"


@pytest.mark.parametrize(("name", "layers", "buffers"), _FILES)
def test_crd_has_the_golden_loss_gradients_banks_and_constants(name, layers, buffers, monkeypatch):
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
        before = golden_banks.read_banks(file, f"{step}buf_before/{buffers}")
        index = jnp.asarray(file[f"{step}in/idx"])

        def loss(params, student, step=step, before=before, index=index):
            outputs = (Outputs(jnp.zeros(()), x) for x in (student, file[f"{step}in/f_t"]))
            state = objectives.ObjectiveState(params, frozen, before)
            batch = batches.from_labels(jnp.zeros_like(index), index)
            losses, moved = objective.loss(state, *outputs, batch)
            return jnp.mean(losses), moved

        (value, moved), (gradients, features) = jax.jit(
            jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        )(params, file[f"{step}in/f_s"])
        assert golden.relative(value, file[f"{step}out/loss"]) < 1e-5
        assert golden.relative(features, file[f"{step}grad/in/f_s"]) < 1e-5
        golden.check_linear(gradients["student"], file, f"{step}{student_entry}")
        golden.check_linear(gradients["teacher"], file, f"{step}{teacher_entry}")
        golden_banks.check_banks(moved, file, f"{step}buf_after/{buffers}")
