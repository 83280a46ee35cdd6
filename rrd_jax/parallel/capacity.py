"""How much memory there is."""

import os
import pathlib

import jax

# What a container may use: cgroup v2, then v1.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_bytes() -> int:
    """The memory of all processes' hosts and devices together, about: what needs more fails."""
    devices = jax.local_devices()
    known = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in devices]
    return (host_bytes() + sum(known)) * jax.process_count()


def host_bytes() -> int:
    """The memory of this host that a process may use, in use or not."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in map(pathlib.Path, _LIMITS):
        try:
            total = min(total, int(path.read_text()))
        except (OSError, ValueError):  # there is none, or it is "max"
            continue
    return total
