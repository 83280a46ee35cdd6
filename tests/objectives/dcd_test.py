import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.networks import Outputs
from rrd_jax.objectives import dcd
from rrd_jax.objectives.parts import projections
from tests import golden
from tests.objectives import batches


def _layers(file, prefix):
    return {
        "student": golden.linear(file, f"{prefix}embed_s"),
        "teacher": golden.linear(file, f"{prefix}embed_t"),
    }


@pytest.mark.parametrize("name", ["dcd", "dcd_fixed", "dcd_clamped", "imagenet_dcd"])
def test_dcd_with_the_references_bias_equals_the_golden_file(name):
    file = golden.load(name)
    trained = bool(file["hp/trainable"])

    def loss(layers, theta, bias, student):
        outputs = (Outputs(jnp.zeros(()), x) for x in (student, file["in/f_t"]))
        embeddings = projections.project_both(layers, *outputs)
        scale = float(file["hp/nce_t"])
        if trained:
            scale = jnp.clip(jnp.exp(theta), 0, float(file["hp/max_tau"]))
        options = {"scale": scale, "bias": bias if trained else 0.0, "alpha": 0.5}
        return jnp.mean(dcd.dcd_loss(*embeddings, **options))

    arguments = (_layers(file, "dcd."), file["param/dcd.params.tau"], file["param/dcd.params.b"])
    value, (layers, theta, bias, features) = jax.jit(
        jax.value_and_grad(loss, argnums=(0, 1, 2, 3))
    )(*arguments, file["in/f_s"])
    assert golden.relative(value, file["out/loss"]) < 1e-5
    assert golden.relative(features, file["grad/in/f_s"]) < 1e-5
    golden.check_linear(layers["student"], file, "grad/param/dcd.embed_s")
    golden.check_linear(layers["teacher"], file, "grad/param/dcd.embed_t")
    expected = file["grad/param/dcd.params.tau"] if trained else 0
    np.testing.assert_allclose(theta, expected, rtol=1e-5)
    np.testing.assert_allclose(bias, 0, atol=5e-7)


@pytest.mark.parametrize("name", ["dcd", "dcd_fixed", "dcd_clamped"])
def test_the_dcd_objective_has_the_golden_loss_and_trains_its_scale(name):
    file = golden.load(name)
    fixed = {} if file["hp/trainable"] else {"scale": float(file["hp/nce_t"])}
    objective = objectives.create("dcd", dim=16, log_scale=float(file["hp/init_tau"]), **fixed)
    outputs = [Outputs(jnp.zeros(()), file[f"in/{x}"]) for x in ("f_s", "f_t")]
    state = jax.jit(objective.init)(jax.random.key(0), *outputs)
    assert ("log_scale" in state.params) == (not fixed)
    state = state._replace(params=state.params | _layers(file, "dcd."))
    losses, _ = objective.loss(state, *outputs, batches.NO_BATCH)
    assert golden.relative(jnp.mean(losses), file["out/loss"]) < 1e-5


def _unit(rng, *shape):
    x = rng.standard_normal(shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_dcd_of_identical_networks_does_not_depend_on_alpha():
    embeddings = jnp.asarray(_unit(np.random.default_rng(0), 4, 8), jnp.float32)
    both = [dcd.dcd_loss(embeddings, embeddings, scale=5.0, alpha=alpha) for alpha in (0.0, 1.0)]
    # S is symmetric, so p and q are equal.
    np.testing.assert_allclose(*both, rtol=1e-5)


def test_a_negative_limit_is_refused():
    with pytest.raises(errors.InputError, match="max_scale is -1"):
        objectives.create("dcd", max_scale=-1)
