"""The memory of hosts and devices."""

import os
import pathlib

import jax
from jax.sharding import Mesh

# Memory limits of a container: cgroup v2, then v1.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_bytes() -> int:
    """Returns an upper bound for the memory of all hosts and devices together, in bytes."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    devices = sum(stat.get("bytes_limit", 0) for stat in stats)
    return (host_bytes() + devices) * jax.process_count()


def host_bytes() -> int:
    """Returns the memory of this host that a process may use, in bytes, free or not."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in map(pathlib.Path, _LIMITS):
        try:
            total = min(total, int(path.read_text()))
        # The file is missing, or contains "max".
        except (OSError, ValueError):
            continue
    return total


def free_device_bytes(mesh: Mesh) -> int:
    """Returns the free bytes of each local device; for a CPU, its share of the host's memory."""
    devices = _local_devices(mesh)
    if stats := devices[0].memory_stats():
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // len(devices)


def device_bytes(mesh: Mesh) -> int:
    """Returns the total bytes of each local device; for a CPU, its share of the host's memory."""
    devices = _local_devices(mesh)
    if stats := devices[0].memory_stats():
        return stats["bytes_limit"]
    return host_bytes() // len(devices)


def _local_devices(mesh: Mesh) -> list[jax.Device]:
    return [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
