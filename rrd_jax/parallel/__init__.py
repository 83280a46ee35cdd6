"""The processes and devices of a run."""

from rrd_jax.parallel.devices import (
    AXIS,
    check_batch,
    check_jaxlib,
    check_platform,
    enable_compilation_cache,
    free_bytes,
    make_mesh,
    peak_flops,
    put,
    put_batch,
    replicated,
    split,
    state_shardings,
)
from rrd_jax.parallel.processes import (
    as_main,
    is_main,
    main_first,
    process_share,
    start,
    stop_requests,
)

__all__ = [
    "AXIS",
    "as_main",
    "check_batch",
    "check_jaxlib",
    "check_platform",
    "enable_compilation_cache",
    "free_bytes",
    "is_main",
    "main_first",
    "make_mesh",
    "peak_flops",
    "process_share",
    "put",
    "put_batch",
    "replicated",
    "split",
    "start",
    "state_shardings",
    "stop_requests",
]
