"""How programs for a CPU are compiled: XLA's options, given to each program and to nothing else."""

import contextlib
import functools
import math
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax.cpu import convolutions

# YNNPACK keeps the sums, which are more exact and five times as fast there, and single products; it
# loses convolutions, which Eigen computes twice as fast, and the chains that it makes of them.
_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    ),
}
# LLVM's third level unrolls loops over few channels before it could make vectors of them.
_LEVEL = {"xla_backend_optimization_level": 2}
_LOCK = threading.RLock()
# A program with oneDNN is compiled at each start, in 3 to 30 s; an ordinary one lies in the cache
# on disk, and makes so many multiply-adds in about a minute.
_ORDINARY = 2e12


@functools.cache
def options() -> dict[str, Any] | None:
    """`compiler_options` of `jax.jit` for a program on a CPU; None for none.

    A version of XLA may not know them. Only a jit that no other traces may be given any.
    """
    given = _OPTIONS if _is_quick() else {**_OPTIONS, **_LEVEL}
    return given if _compiles(given) else None


def _is_quick() -> bool:
    """Whether JAX is asked to compile quickly, instead of to what runs quickly."""
    return jax.config.read("jax_disable_most_optimizations")


def _compiles(given: dict[str, Any]) -> bool:
    cpu = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    tried = jax.jit(jnp.negative, compiler_options=given, out_shardings=cpu)
    try:
        tried.lower(jax.ShapeDtypeStruct((), jnp.float32, sharding=cpu)).compile()
    except Exception:  # of jaxlib; which, depends on the version
        return False
    return True


def for_mesh(
    function: Callable,
    mesh: jax.sharding.Mesh,
    *,
    fast_cpu: bool = True,
    onednn: bool = False,
    **keywords: Any,
) -> Callable:
    """`jax.jit` for a mesh; for one of CPUs with the options, and convolutions in their ways.

    Args:
      function: to be traced whole, as `convolutions.fast` has it.
      mesh: the devices; they need not exist.
      fast_cpu: whether CPUs compute as fast as they can, with other rounding.
      onednn: whether they use oneDNN for it, as `Unwritten` does; not where JAX is asked to
        compile quickly, which a cache on disk does better.
      **keywords: of `jax.jit`, but for compiler options.
    """
    if mesh.devices.flat[0].platform != "cpu":
        return jax.jit(function, **keywords)
    if not fast_cpu:
        return jax.jit(convolutions.plain(function), **keywords)
    # Of several processes one may compile for all, and send what it made.
    if onednn and not _is_quick() and jax.process_count() == 1 and onednn_types():
        return Unwritten(function, _cores(mesh.size), **keywords)
    fast = convolutions.fast(function, cores=_cores(mesh.size))
    return jax.jit(fast, compiler_options=options(), **keywords)


def compiled(function: Callable, *arguments: Any) -> Any:
    """The program that calls of a function of `for_mesh` run; they do not compile it again.

    It is for a look, not to be serialised.
    """
    if isinstance(function, Unwritten):
        return function.as_called(*arguments)
    return function.lower(*arguments).compile()


def ordinary_calls(multiply_adds: int) -> int:
    """How many calls of so many multiply-adds a CPU had better make without oneDNN."""
    return math.ceil(_ORDINARY / max(multiply_adds, 1))


class Unwritten:
    """`jax.jit` for a CPU with oneDNN's convolutions, which JAX's cache on disk must never see.

    oneDNN lies in jaxlib, and computes most convolutions a third faster than Eigen does. But
    jaxlib cannot serialise its calls: the process would end with a segmentation fault.

    Args:
      function: traced and compiled on its first call, in every process anew.
      cores: as `convolutions.fast` has it.
      **keywords: of `jax.jit`, but for compiler options.
    """

    def __init__(self, function: Callable, cores: int = 1, **keywords: Any):
        quick = convolutions.fast(function, onednn_types(), cores)
        self._quick = jax.jit(quick, compiler_options=_with_onednn(), **keywords)
        ordinary = convolutions.fast(function, cores=cores)
        self._ordinary = jax.jit(ordinary, compiler_options=options(), **keywords)

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns for these."""
        with _nothing_is_written():
            return self._quick(*arguments)

    def lower(self, *arguments: Any) -> Any:
        """As of a function of `jax.jit`, without oneDNN: whoever compiles it may write it."""
        return self._ordinary.lower(*arguments)

    def as_called(self, *arguments: Any) -> Any:
        """The compiled program that calls run, for a look at it: never to be serialised."""
        with _nothing_is_written():
            return self._quick.lower(*arguments).compile()


@contextlib.contextmanager
def _nothing_is_written() -> Iterator[None]:
    """What is compiled inside does not get into the cache on disk: nothing takes long enough."""
    name = "jax_persistent_cache_min_compile_time_secs"
    with _LOCK:
        usual = getattr(jax.config, name)
        jax.config.update(name, math.inf)
        try:
            yield
        finally:
            jax.config.update(name, usual)


def _with_onednn() -> dict[str, Any]:
    return {**(options() or {}), "xla_cpu_experimental_onednn_custom_call": True}


def _cores(devices: int = 1) -> int:
    """Those of a device, of several that share the machine's.

    Not only those that this process may use: numbers would depend on how a study divides them.
    """
    return max((os.cpu_count() or 1) // devices, 1)


@functools.cache
def onednn_types() -> frozenset:
    """Those of float32 and bfloat16 whose convolutions XLA can hand to oneDNN here.

    That depends on the version and on the processor. A version may know the option, and ignore it.
    """
    return frozenset(
        jnp.dtype(dtype)
        for dtype in (jnp.float32, jnp.bfloat16)
        if "__onednn$convolution" in _text_with_onednn(dtype)
    )


def _text_with_onednn(dtype: Any) -> str:
    """Of a small convolution, compiled; "" where the option is not known."""
    cpu = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    kernel = jax.ShapeDtypeStruct((3, 3, 16, 16), dtype, sharding=cpu)
    maps = jax.ShapeDtypeStruct((1, 8, 8, 16), dtype, sharding=cpu)
    convolve = functools.partial(convolutions.convolve, stride=1, padding=(1, 1))
    tried = jax.jit(convolve, compiler_options=_with_onednn(), out_shardings=cpu)
    try:
        with _nothing_is_written():
            return tried.lower(maps, kernel).compile().as_text()
    except Exception:  # of jaxlib; which, depends on the version
        return ""


def jit(function: Callable) -> Callable:
    """`jax.jit`, on a CPU as fast as it can: with the options, and convolutions in their ways.

    Inside of another function that is traced, or differentiated, it is the function as it stands.
    """
    ordinary = jax.jit(function)
    if jax.default_backend() != "cpu":
        return ordinary
    quick = jax.jit(convolutions.fast(function, cores=_cores()), compiler_options=options())

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        values = jax.tree.leaves((arguments, jnp.zeros(())))  # the last is one inside a trace
        traced = any(isinstance(value, jax.core.Tracer) for value in values)
        return (ordinary if traced else quick)(*arguments)

    return call
