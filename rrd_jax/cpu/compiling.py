"""Compilation of programs for a CPU, with XLA options for each program instead of global flags."""

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

# YNNPACK keeps reductions, which it computes more exactly and five times as fast as XLA, and single
# matrix products. Eigen is twice as fast for convolutions and for chains of fused operations.
_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    ),
}
# At level 3, LLVM unrolls loops over few channels before it can vectorize them.
_LEVEL = {"xla_backend_optimization_level": 2}
_LOCK = threading.RLock()
# Programs with oneDNN are compiled at each start, which takes 3 to 30 s; programs without oneDNN
# are read from the cache on disk. A CPU needs about a minute for this number of multiply-adds.
_MULTIPLY_ADDS_PER_COMPILATION = 2e12


@functools.cache
def options() -> dict[str, Any] | None:
    """Returns the `compiler_options` of `jax.jit` for a CPU; None if XLA does not support them.

    Pass them only to a `jax.jit` that is not called inside another traced function.
    """
    chosen = _OPTIONS if _compiles_quickly() else {**_OPTIONS, **_LEVEL}
    return chosen if _compiles(chosen) else None


def _compiles_quickly() -> bool:
    """Returns True if JAX is configured for short compilation times instead of fast programs."""
    return jax.config.read("jax_disable_most_optimizations")


def _compiles(chosen: dict[str, Any]) -> bool:
    cpu = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    probe = jax.jit(jnp.negative, compiler_options=chosen, out_shardings=cpu)
    try:
        probe.lower(jax.ShapeDtypeStruct((), jnp.float32, sharding=cpu)).compile()
    # The type of jaxlib's error depends on its version.
    except Exception:
        return False
    return True


def jit_for_mesh(
    function: Callable,
    mesh: jax.sharding.Mesh,
    *,
    fast_cpu: bool = True,
    onednn: bool = False,
    **keywords: Any,
) -> Callable:
    """Returns `jax.jit` of a function; for CPUs, with their options and convolution forms.

    Args:
      function: traced as a whole, see `convolutions.fast`.
      mesh: the devices, which need not exist.
      fast_cpu: True to let CPUs use faster operations that round differently.
      onednn: True to use oneDNN on CPUs, see `OnednnJit`. Ignored if JAX is configured for short
        compilation times, for which the cache on disk is the better choice.
      **keywords: arguments of `jax.jit`, except compiler options.
    """
    if mesh.devices.flat[0].platform != "cpu":
        return jax.jit(function, **keywords)
    if not fast_cpu:
        return jax.jit(convolutions.plain(function), **keywords)
    # With several processes, JAX may compile in one process and send the serialized program.
    if onednn and not _compiles_quickly() and jax.process_count() == 1 and onednn_types():
        return OnednnJit(function, _cores(mesh.size), **keywords)
    fast = convolutions.fast(function, cores=_cores(mesh.size))
    return jax.jit(fast, compiler_options=options(), **keywords)


def compiled_program(function: Any, *arguments: Any) -> Any:
    """Returns the program that calls of a function run, without compiling it a second time.

    The program may be inspected, but must not be serialized.

    Args:
      function: a result of `jit_for_mesh`.
      *arguments: arguments of the function.
    """
    if isinstance(function, OnednnJit):
        return function.compile_with_onednn(*arguments)
    return function.lower(*arguments).compile()


def calls_without_onednn(multiply_adds: int) -> int:
    """Returns the number of calls after which compiling a program with oneDNN pays off.

    Args:
      multiply_adds: multiply-adds per call.
    """
    return math.ceil(_MULTIPLY_ADDS_PER_COMPILATION / max(multiply_adds, 1))


class OnednnJit:
    """A `jax.jit` for CPUs with oneDNN's convolutions, kept out of JAX's cache on disk.

    oneDNN is part of jaxlib, and computes most convolutions a third faster than Eigen. However,
    jaxlib cannot serialize oneDNN's calls: the process would end with a segmentation fault.

    Args:
      function: traced and compiled on its first call, in each process again.
      cores: number of cores, see `convolutions.fast`.
      **keywords: arguments of `jax.jit`, except compiler options.
    """

    def __init__(self, function: Callable, cores: int = 1, **keywords: Any):
        with_onednn = convolutions.fast(function, onednn_types(), cores)
        self._onednn_jit = jax.jit(with_onednn, compiler_options=_onednn_options(), **keywords)
        without_onednn = convolutions.fast(function, cores=cores)
        self._plain_jit = jax.jit(without_onednn, compiler_options=options(), **keywords)

    def __call__(self, *arguments: Any) -> Any:
        """Returns the function's result."""
        with _no_disk_cache():
            return self._onednn_jit(*arguments)

    def lower(self, *arguments: Any) -> Any:
        """Lowers the function without oneDNN, so that the compiled program can be serialized."""
        return self._plain_jit.lower(*arguments)

    def compile_with_onednn(self, *arguments: Any) -> Any:
        """Returns the compiled program that calls run; it must not be serialized."""
        with _no_disk_cache():
            return self._onednn_jit.lower(*arguments).compile()


@contextlib.contextmanager
def _no_disk_cache() -> Iterator[None]:
    """Returns a context whose compiled programs are not written to the cache on disk.

    The minimum compilation time of cached programs is infinite inside the context.
    """
    name = "jax_persistent_cache_min_compile_time_secs"
    with _LOCK:
        previous = getattr(jax.config, name)
        jax.config.update(name, math.inf)
        try:
            yield
        finally:
            jax.config.update(name, previous)


def _onednn_options() -> dict[str, Any]:
    return {**(options() or {}), "xla_cpu_experimental_onednn_custom_call": True}


def _cores(devices: int = 1) -> int:
    """Returns the number of cores per device when several devices share the machine.

    All cores of the machine count, even if this process may use only some of them: otherwise,
    results would depend on how a study divides the cores among its processes.
    """
    return max((os.cpu_count() or 1) // devices, 1)


@functools.cache
def onednn_types() -> frozenset:
    """Returns the dtypes, float32 and bfloat16 or fewer, whose convolutions XLA hands to oneDNN.

    The result depends on the version of XLA, which may accept the option without using oneDNN, and
    on the processor.
    """
    return frozenset(
        jnp.dtype(dtype)
        for dtype in (jnp.float32, jnp.bfloat16)
        if "__onednn$convolution" in _program_text(dtype)
    )


def _program_text(dtype: Any) -> str:
    """Returns the compiled program of a small convolution; "" if XLA does not support oneDNN."""
    cpu = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    kernel = jax.ShapeDtypeStruct((3, 3, 16, 16), dtype, sharding=cpu)
    maps = jax.ShapeDtypeStruct((1, 8, 8, 16), dtype, sharding=cpu)
    convolve = functools.partial(convolutions.convolve, stride=1, padding=(1, 1))
    probe = jax.jit(convolve, compiler_options=_onednn_options(), out_shardings=cpu)
    try:
        with _no_disk_cache():
            return probe.lower(maps, kernel).compile().as_text()
    # The type of jaxlib's error depends on its version.
    except Exception:
        return ""


def jit(function: Callable) -> Callable:
    """Returns `jax.jit` of a function; on a CPU, with its options and convolution forms.

    Inside another function that is traced or differentiated, the result is plain `jax.jit`.
    """
    ordinary = jax.jit(function)
    if jax.default_backend() != "cpu":
        return ordinary
    quick = jax.jit(convolutions.fast(function, cores=_cores()), compiler_options=options())

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        # Inside a trace, the array of zeros is a tracer, even if no argument is one.
        values = jax.tree.leaves((arguments, jnp.zeros(())))
        traced = any(isinstance(value, jax.core.Tracer) for value in values)
        return (ordinary if traced else quick)(*arguments)

    return call
