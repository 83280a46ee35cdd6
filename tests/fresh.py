"""Fresh networks for tests, compiled quickly rather than well."""

import functools

import jax

from rrd_jax import networks


def init(network, image_shape, seed=0):
    """Variables of a network as numpy arrays."""
    quick = {"xla_backend_optimization_level": 0}
    create = functools.partial(networks.init, network, image_shape=image_shape)
    return jax.device_get(jax.jit(create, compiler_options=quick)(jax.random.key(seed)))
