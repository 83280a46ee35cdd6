import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, memory, objectives
from rrd_jax.networks import Outputs
from rrd_jax.objectives import contrast, linear
from tests import golden


def _layers(file, prefix):
    return {
        "student": golden.linear(file, f"{prefix}embed_s"),
        "teacher": golden.linear(file, f"{prefix}embed_t"),
    }


@pytest.mark.parametrize("name", ["dcd", "dcd_fixed", "dcd_clamped", "imagenet_dcd"])
def test_dcd_golden_with_the_references_bias(name):
    file = golden.load(name)
    trained = bool(file["hp/trainable"])

    def loss(layers, theta, bias, student):
        outputs = (Outputs(jnp.zeros(()), x) for x in (student, file["in/f_t"]))
        embeddings = linear.project_both(layers, *outputs)
        scale = float(file["hp/nce_t"])
        if trained:
            scale = jnp.clip(jnp.exp(theta), 0, float(file["hp/max_tau"]))
        options = {"scale": scale, "bias": bias if trained else 0.0, "alpha": 0.5}
        return jnp.mean(contrast.dcd_loss(*embeddings, **options))

    arguments = (_layers(file, "dcd."), file["param/dcd.params.tau"], file["param/dcd.params.b"])
    value, (layers, theta, bias, features) = jax.jit(
        jax.value_and_grad(loss, argnums=(0, 1, 2, 3))
    )(*arguments, file["in/f_s"])
    assert golden.relative(value, file["out/loss"]) < 1e-5
    assert golden.relative(features, file["grad/in/f_s"]) < 1e-5
    golden.check_linear(layers["student"], file, "grad/param/dcd.embed_s")
    golden.check_linear(layers["teacher"], file, "grad/param/dcd.embed_t")
    wanted = file["grad/param/dcd.params.tau"] if trained else 0
    np.testing.assert_allclose(theta, wanted, rtol=1e-5)
    np.testing.assert_allclose(bias, 0, atol=5e-7)


@pytest.mark.parametrize("name", ["dcd", "dcd_fixed", "dcd_clamped"])
def test_the_dcd_objective_has_the_golden_loss_and_trains_its_scale(name):
    file = golden.load(name)
    fixed = {} if file["hp/trainable"] else {"scale": float(file["hp/nce_t"])}
    objective = objectives.create("dcd", dim=16, log_scale=float(file["hp/init_tau"]), **fixed)
    outputs = [Outputs(jnp.zeros(()), file[f"in/{x}"]) for x in ("f_s", "f_t")]
    state = objective.init(jax.random.key(0), *outputs)
    assert ("log_scale" in state.params) == (not fixed)
    state = state._replace(params=state.params | _layers(file, "dcd."))
    losses, _ = objective.loss(state, *outputs, {})
    assert golden.relative(jnp.mean(losses), file["out/loss"]) < 1e-5


@pytest.mark.parametrize("name", ["crd_fifo", "crd_fifo_two_calls_wrap"])
def test_crd_golden_loss_gradients_and_queue(name):
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
            losses, pushed = objective.loss(state, *outputs, {})
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
    own = (student * teacher).sum(-1, keepdims=True)
    logits = np.concatenate([own, student @ rows.T], axis=1) / temperature
    top = logits.max(1, keepdims=True)
    wanted = np.log(np.exp(logits - top).sum(1)) + top[:, 0] - logits[:, 0]
    found = contrast.infonce_loss(
        *(jnp.asarray(x, jnp.float32) for x in (student, teacher, rows)), temperature=temperature
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_pushing_before_puts_every_image_among_its_own_negatives():
    rng = np.random.default_rng(0)
    outputs = [Outputs(jnp.zeros(()), jnp.asarray(_unit(rng, 6, n), jnp.float32)) for n in (4, 5)]
    losses = {}
    for before in (False, True):
        objective = objectives.create(
            "crd", negatives=6, dim=4, temperature=1e-3, push_before=before
        )
        state = objective.init(jax.random.key(0), *outputs)
        # An ideal student: the queue holds directions that are not its own.
        layers = {"student": state.params["teacher"], "teacher": state.params["teacher"]}
        same = (outputs[1], outputs[1])
        losses[before], _ = objective.loss(state._replace(params=layers), *same, {})
    assert np.all(losses[True] >= np.log(2) - 1e-5)
    assert np.min(losses[False]) < 0.1


def test_dcd_is_not_zero_on_identical_networks_but_consistent():
    embeddings = jnp.asarray(_unit(np.random.default_rng(0), 4, 8), jnp.float32)
    both = [
        contrast.dcd_loss(embeddings, embeddings, scale=5.0, alpha=alpha) for alpha in (0.0, 1.0)
    ]
    np.testing.assert_allclose(*both, rtol=1e-5)  # S is symmetric: p and q are equal


def test_values_out_of_range_are_named():
    with pytest.raises(errors.InputError, match="known: fifo, bank"):
        objectives.create("crd", memory="queue")
    with pytest.raises(errors.InputError, match="negatives is 0"):
        objectives.create("crd", negatives=0)
    with pytest.raises(errors.InputError, match="max_scale is -1"):
        objectives.create("dcd", max_scale=-1)
    with pytest.raises(errors.InputError, match="a bank needs examples"):
        objectives.create("crd", memory="bank")
    with pytest.raises(errors.InputError, match="temperature of a bank is 0.01"):
        objectives.create("crd", memory="bank", examples=10, temperature=0.01)
    with pytest.raises(errors.InputError, match="momentum is 1"):
        objectives.create("crd", memory="bank", examples=10, momentum=1)
    with pytest.raises(errors.InputError, match=r"must be \[K, D\]"):
        contrast.infonce_loss(jnp.ones((2, 3)), jnp.ones((2, 3)), jnp.ones((4, 5)), temperature=1.0)
