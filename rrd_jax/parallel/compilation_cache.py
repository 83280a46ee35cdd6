"""The cache of compiled programs on disk."""

import glob
import hashlib
import os
import pathlib
import platform
import tempfile
import time
import warnings
from collections.abc import Callable

import jax

from rrd_jax.terminal import console

OFF = "off"
_PREFIXES = ("Error reading persistent compilation cache", "Error writing persistent compilation")
# Lines of /proc/cpuinfo that distinguish processors of Intel and AMD, and of Arm.
_CPU_LINES = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU")
# Seconds for which another run may still be writing a program.
_WRITE_TIME = 10.0


def enable_compilation_cache(folder: str = "") -> None:
    """Enables JAX's compilation cache; warns and disables it if the folder cannot be written.

    Each kind of machine has a separate subfolder, because a program for another processor may crash
    with an illegal instruction.

    Args:
      folder: folder of the cache. "" selects JAX_COMPILATION_CACHE_DIR if it is set, and otherwise
        the folder rrd_jax in the user's cache folder. "off" disables the cache.
    """
    if folder == OFF:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if jax.config.jax_compilation_cache_dir and not folder:
        return
    user_cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    home = pathlib.Path(folder or pathlib.Path(user_cache) / "rrd_jax") / _kind_of_machine()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        console.warn(
            f"compiled programs are not cached: {home} cannot be written ({error.strerror}); set"
            " compilation_cache to another folder or to off"
        )
        jax.config.update("jax_enable_compilation_cache", False)
        return
    jax.config.update("jax_compilation_cache_dir", str(home))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    warnings.showwarning = _make_showwarning(home, warnings.showwarning)


def _kind_of_machine() -> str:
    """Returns a name for machines that can share programs.

    The name contains the number of usable cores, because XLA partitions programs by this number but
    JAX's cache keys do not contain it.
    """
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        lines = [platform.processor()]
    selected = [line for line in lines if line.startswith(_CPU_LINES)] or lines
    text = "\n".join([platform.machine(), *selected])
    kind = f"{platform.machine()}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{kind}-{cores}"


def _may_be_incomplete(path: pathlib.Path) -> bool:
    """Returns True if another run may still be writing a file."""
    try:
        return time.time() - path.stat().st_mtime < _WRITE_TIME
    # The file was deleted in the meantime.
    except OSError:
        return False


def _make_showwarning(home: pathlib.Path, default: Callable) -> Callable:
    """Returns a `warnings.showwarning` that rewords JAX's warnings about the cache.

    Each of the two warnings is printed once. JAX writes programs in place, so that it may read a
    program that another run is still writing. Such a program is not damaged and causes no warning.

    Args:
      home: folder of the cache.
      default: the `warnings.showwarning` for other warnings.
    """
    printed = set()

    def show(message, *arguments, **keywords):
        text = str(message)
        prefix = next((prefix for prefix in _PREFIXES if text.startswith(prefix)), None)
        if prefix is None:
            default(message, *arguments, **keywords)
            return
        name, _, reason = text.partition("'")[2].partition("': ")
        is_damaged = prefix == _PREFIXES[0]
        if is_damaged:
            entries = list(home.glob(f"{glob.escape(name)}-*-cache"))
            if any(map(_may_be_incomplete, entries)):
                return
            # JAX does not delete damaged programs.
            for path in entries:
                path.unlink(missing_ok=True)
        if prefix not in printed:
            printed.add(prefix)
            reason = reason.split("\n")[0]
            console.warn(
                f"compiled programs in {home} cannot be {'read' if is_damaged else 'written'}"
                f" ({reason}); {'compiling them again' if is_damaged else 'free disk space there'}"
            )

    return show
