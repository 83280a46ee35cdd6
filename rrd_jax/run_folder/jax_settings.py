"""Settings of JAX that change the numbers of a run: pinned, or recorded and compared."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from rrd_jax import errors
from rrd_jax.terminal import console

# Settings of rounding and of types. Other settings change the place, the speed or the checks of
# computations, but not their numbers.
_COMPARED = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_numpy_dtype_promotion",
    "jax_softmax_custom_jvp",
    "jax_accurate_erf_inv",
    "jax_high_dynamic_range_gumbel",
    "jax_allow_f16_reductions",
    "jax_random_seed_offset",
)
# Flags of XLA that place or log computations.
_HARMLESS = ("--xla_force_host_platform_device_count", "--xla_dump", "--xla_log", "--xla_hlo_prof")
_XLA_FLAGS = "XLA_FLAGS"


@contextlib.contextmanager
def pinned_prng() -> Iterator[None]:
    """Sets JAX's default random number generator, so that a seed means the same numbers anywhere.

    JAX_DEFAULT_PRNG_IMPL and JAX_THREEFRY_PARTITIONABLE have no effect within the context.
    """
    with jax.default_prng_impl("threefry2x32"), jax.threefry_partitionable(True):
        yield


def describe() -> dict[str, Any]:
    """Returns the settings that `check` compares, by name, as JSON."""
    names = (name for name in _COMPARED if hasattr(jax.config, name))
    settings = {name: _as_json(getattr(jax.config, name)) for name in names}
    flags = os.environ.get(_XLA_FLAGS, "").split()
    settings[_XLA_FLAGS] = " ".join(sorted(f for f in flags if not f.startswith(_HARMLESS)))
    return settings


def check(folder: Any, previous: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Compares the settings of two starts of a run; settings that one of them lacks are ignored.

    Args:
      folder: the run folder, for messages.
      previous: the settings of the previous start.
      current: the settings of this start.

    Raises:
      InputError: a setting of rounding or types differs.
    """
    for name in previous.keys() & current.keys() - {_XLA_FLAGS}:
        if previous[name] != current[name]:
            variable = name.upper()
            before = previous[name]
            remedy = f"unset {variable}" if before is None else f"set {variable}={before}"
            raise errors.InputError(
                f"{name} is {current[name]}, but the run in {folder} started with {before}, and"
                f" other numbers would follow; {remedy}, or pass another --workdir"
            )
    flags = previous.get(_XLA_FLAGS), current.get(_XLA_FLAGS)
    if None not in flags and flags[0] != flags[1]:
        console.note(
            f"resuming {folder} with {_XLA_FLAGS}={flags[1]!r}, which was {flags[0]!r}; results may"
            " differ by rounding"
        )


def _as_json(value: Any) -> Any:
    """Returns a setting as JSON; some settings are members of an enum."""
    return getattr(value, "value", value)
