"""Custom networks, objectives and teachers that are passed as Python objects."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rrd_jax
from rrd_jax import errors, objectives
from tests.networks.custom_equinox import Stateful

pytestmark = pytest.mark.long

_IMAGES = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1), dtype=np.uint8)
_SPLIT = _IMAGES, np.arange(16) % 10


class _Small(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        return nn.Dense(10)(x), x


def _zero(student, teacher, batch):
    return jnp.zeros(len(student.logits))


def _distill(**arguments):
    options = {"teacher": _teacher(), "student": _Small(), "objectives": {"kd": 1.0}} | arguments
    return rrd_jax.distill(train=_SPLIT, test=_SPLIT, epochs=1, batch_size=8, **options)


def _teacher():
    return _Small(), _Small().init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("value", [objectives.stateless(_zero), (2.0, _zero), _zero])
def test_an_objective_is_accepted_with_and_without_a_weight(value):
    result = _distill(objectives={"kd": 1.0, "zero": value}, optimizer=optax.adamw)
    assert result.metrics["parameters"] == 650
    # The representation contains neither weights nor images.
    assert len(repr(result)) < 1000


@pytest.mark.usefixtures("one_device")
def test_an_equinox_teacher_needs_its_state():
    model, state = eqx.nn.make_with_state(Stateful)(10, key=jax.random.key(0))
    assert _distill(teacher=(model, state)).metrics["parameters"] == 650
    with pytest.raises(errors.InputError, match=r"'Stateful' lacks its state; pass the p"):
        _distill(teacher=model)


@pytest.mark.usefixtures("one_device")
def test_weights_of_another_network_are_refused(tmp_path):
    _distill(workdir=tmp_path)
    assert rrd_jax.load(tmp_path, network=_Small())(_IMAGES[:2]).logits.shape == (2, 10)
    with pytest.raises(errors.InputError, match=r"do not fit the network: params/.* absent"):
        rrd_jax.load(tmp_path, network=nn.Sequential([lambda x: x.mean((1, 2)), nn.Dense(10)]))
