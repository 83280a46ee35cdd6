import jax
import jax.numpy as jnp
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import wsld
from tests import golden


def test_wsld_has_the_golden_loss_and_gradient():
    file = golden.load("wsld")
    options = {"temperature": float(file["hp/T"]), "alpha": float(file["hp/alpha"])}
    loss, gradient = jax.jit(
        jax.value_and_grad(
            lambda s: jnp.mean(wsld.wsld_loss(s, file["in/fc_t"], file["in/label"], **options))
        )
    )(file["in/fc_s"])
    assert golden.relative(loss, file["out/loss"]) < 1e-5
    assert golden.relative(gradient, file["grad/in/fc_s"]) < 1e-5


def test_a_weight_of_zero_is_refused():
    with pytest.raises(errors.InputError, match="alpha is 0"):
        objectives.create("wsld", alpha=0)
