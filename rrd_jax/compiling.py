"""How programs for a CPU are compiled: XLA's options, given to each program and to nothing else."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import convolutions

# YNNPACK keeps the sums, which are more exact and five times as fast there, and single products; it
# loses convolutions, which Eigen computes twice as fast, and the chains that it makes of them.
_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    )
}


@functools.cache
def options() -> dict[str, Any] | None:
    """`compiler_options` of `jax.jit` for a program on a CPU; None for none.

    A version of XLA may not know them. Only a jit that no other traces may be given any.
    """
    cpu = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    tried = jax.jit(jnp.negative, compiler_options=_OPTIONS, out_shardings=cpu)
    try:
        tried.lower(jax.ShapeDtypeStruct((), jnp.float32, sharding=cpu)).compile()
    except Exception:  # of jaxlib; which, depends on the version
        return None
    return _OPTIONS


def jit(function: Callable) -> Callable:
    """`jax.jit`, on a CPU as fast as it can: with the options, and convolutions in their ways.

    Inside of another function that is traced, or differentiated, it is the function as it stands.
    """
    ordinary = jax.jit(function)
    if jax.default_backend() != "cpu":
        return ordinary
    quick = jax.jit(convolutions.fast(function), compiler_options=options())

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        values = jax.tree.leaves((arguments, jnp.zeros(())))  # the last is one inside a trace
        traced = any(isinstance(value, jax.core.Tracer) for value in values)
        return (ordinary if traced else quick)(*arguments)

    return call
