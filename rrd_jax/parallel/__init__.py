"""The processes and devices of a run."""

from rrd_jax.parallel.compilation_cache import enable_compilation_cache
from rrd_jax.parallel.device_memory import (
    device_bytes,
    free_device_bytes,
    host_bytes,
    machine_bytes,
)
from rrd_jax.parallel.devices import (
    check_jaxlib,
    check_platform,
    has_fast_bfloat16,
    peak_flops,
)
from rrd_jax.parallel.processes import (
    StopRequests,
    broadcast_from_main,
    check_agreement,
    code_version,
    is_main,
    local_share,
    main_first,
    process_share,
    start,
    stop_requests,
)
from rrd_jax.parallel.sharding import (
    AXES,
    check_batch,
    gather,
    gathered,
    make_mesh,
    put,
    put_batch,
    replicated,
    split,
    state_shardings,
    weight_axes,
    weight_shardings,
    with_mesh,
)
from rrd_jax.parallel.shared_folders import check_shared

__all__ = [
    "AXES",
    "StopRequests",
    "broadcast_from_main",
    "check_agreement",
    "check_batch",
    "check_jaxlib",
    "check_platform",
    "check_shared",
    "code_version",
    "device_bytes",
    "enable_compilation_cache",
    "free_device_bytes",
    "gather",
    "gathered",
    "has_fast_bfloat16",
    "host_bytes",
    "is_main",
    "local_share",
    "machine_bytes",
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
    "weight_axes",
    "weight_shardings",
    "with_mesh",
]
