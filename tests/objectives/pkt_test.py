import jax
import jax.numpy as jnp
import pytest

from rrd_jax import errors
from rrd_jax.objectives import pkt
from tests import golden


def test_the_loss_and_gradient_equal_the_golden_file():
    file = golden.load("pkt")
    loss = jax.value_and_grad(lambda student: jnp.mean(pkt.pkt_loss(student, file["in/f_t"])))
    value, gradient = jax.jit(loss)(file["in/f_s"])
    assert golden.relative(value, file["out/loss"]) < 1e-5
    assert golden.relative(gradient, file["grad/in/f_s"]) < 1e-5


def test_batches_of_different_sizes_are_refused():
    with pytest.raises(errors.InputError, match="batches of equal size"):
        pkt.pkt_loss(jnp.ones((3, 2)), jnp.ones((4, 2)))
