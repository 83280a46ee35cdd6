"""The devices of this machine: checks of the platform, and what is known about its speed."""

import importlib.util
import os
import pathlib

import jax
from jax.extend.backend import clear_backends

from rrd_jax import errors
from rrd_jax.terminal import cli, console, runtime_errors

# JAX has searched for a TPU by now, and the devices have not been started yet.
cli.quiet_libtpu()
# Dense bfloat16 TFLOP/s by a part of JAX's device kind; the first match is used. A device is a core
# for TPU v3 and v2.
_PEAK = {
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "TPU7x": 2307,
    "TPU v6": 918,
    "TPU v5 lite": 197,
    "TPU v5e": 197,
    "TPU v5": 459,
    "TPU v4 lite": 138,
    "TPU v4": 275,
    "TPU v3": 61.5,
    "TPU v2": 22.5,
}
_CUDA_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


def check_platform() -> None:
    """Starts JAX's devices; warns about an NVIDIA GPU plugin that finds no GPU.

    Raises:
      UnavailableError: the platform of JAX_PLATFORMS is not available.
      InputError: JAX has a setting with which no run can be compiled or placed on the devices.
    """
    runtime_errors.check_settings()
    requested = jax.config.jax_platforms
    try:
        platform = jax.default_backend()
    # JAX raises an AssertionError if there is no GPU.
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split(" (set JAX_PLATFORMS")[0].strip().split("\n")[0]
        raise errors.UnavailableError(
            f"JAX_PLATFORMS={requested}, but JAX cannot use this platform"
            f"{f' ({reason[:200]})' if reason else ''}; available: {_available_platforms()}; unset"
            " JAX_PLATFORMS, or set JAX_PLATFORMS=cpu; an NVIDIA GPU needs a driver and pip install"
            " 'rrd_jax[cuda13]', a TPU needs pip install 'rrd_jax[tpu]'"
        ) from error
    if platform == "cpu" and not requested and any(map(importlib.util.find_spec, _CUDA_PLUGINS)):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        console.warn(
            "JAX's plugin for NVIDIA GPUs is installed but finds no GPU"
            f"{'' if visible is None else f' (CUDA_VISIBLE_DEVICES={visible})'}; running on the"
            " CPU; set JAX_PLATFORMS=cuda to stop with an error instead, or JAX_PLATFORMS=cpu to"
            " hide this warning"
        )


def _available_platforms() -> str:
    """Returns the platforms that JAX finds without JAX_PLATFORMS."""
    requested = jax.config.jax_platforms
    jax.config.update("jax_platforms", "")
    try:
        return " and ".join(sorted({"cpu", jax.default_backend()}))
    except (RuntimeError, AssertionError):
        return "cpu"
    # A second attempt must fail with the same error.
    finally:
        clear_backends()
        jax.config.update("jax_platforms", requested)


def check_jaxlib() -> None:
    """Raises an InputError for a jaxlib that computes wrong values on the current platform."""
    if jax.lib.__version__ == "0.10.2" and jax.default_backend() == "cpu":
        raise errors.InputError(
            "jaxlib 0.10.2 computes wrong values on a CPU (JAX issue 39103); install another"
            " version: pip install 'jax!=0.10.2'"
        )


def peak_flops(device_kind: str) -> float:
    """Returns a device's dense bfloat16 FLOP/s from its data sheet; 0 if unknown."""
    return next((peak * 1e12 for name, peak in _PEAK.items() if name in device_kind), 0.0)


def has_fast_bfloat16() -> bool:
    """Returns True if the CPU has bfloat16 instructions, or if its instructions are unknown."""
    path = pathlib.Path("/proc/cpuinfo")
    words = path.read_text().split() if path.exists() else []
    return "flags" not in words or not {"amx_bf16", "avx512_bf16"}.isdisjoint(words)
