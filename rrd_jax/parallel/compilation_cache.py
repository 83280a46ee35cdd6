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
_BEGINS = ("Error reading persistent compilation cache", "Error writing persistent compilation")
# Lines of /proc/cpuinfo that distinguish processors: of Intel and AMD, and of Arm.
_CPU_LINES = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU")
_WRITE_TIME = 10.0  # seconds in which another run may still be writing a program


def enable_compilation_cache(folder: str = "") -> None:
    """Enables JAX's compilation cache; warns and disables it if the folder cannot be written.

    Each kind of machine has its own subfolder: a program for another processor may end in an
    illegal instruction.

    Args:
      folder: "" for JAX_COMPILATION_CACHE_DIR, or else rrd_jax in the user's cache folder; "off"
        for no cache.
    """
    if folder == OFF:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if jax.config.jax_compilation_cache_dir and not folder:
        return
    usual = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    home = pathlib.Path(folder or pathlib.Path(usual) / "rrd_jax") / _kind_of_machine()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        console.warn(
            f"compiled programs are not kept: {home} cannot be written ({error.strerror}); the"
            " config's compilation_cache names another folder, or off"
        )
        jax.config.update("jax_enable_compilation_cache", False)
        return
    jax.config.update("jax_compilation_cache_dir", str(home))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    warnings.showwarning = _shower(home, warnings.showwarning)


def _kind_of_machine() -> str:
    """Returns a name for machines that can share programs.

    The name contains the number of usable cores, by which XLA partitions programs; JAX's keys do
    not contain it.
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
    except OSError:  # The file was deleted in the meantime.
        return False


def _shower(home: pathlib.Path, usual: Callable) -> Callable:
    """Returns a `warnings.showwarning` that rewords JAX's warnings about the cache, once each.

    JAX writes programs in place, so that it may read one that another run is still writing. Such a
    program is not damaged, and there is no warning about it.

    Args:
      home: the cache.
      usual: shows other warnings.
    """
    shown = set()

    def show(message, *others, **named):
        text = str(message)
        begin = next((begin for begin in _BEGINS if text.startswith(begin)), None)
        if begin is None:
            usual(message, *others, **named)
            return
        name, _, reason = text.partition("'")[2].partition("': ")
        is_damaged = begin == _BEGINS[0]
        if is_damaged:
            entries = list(home.glob(f"{glob.escape(name)}-*-cache"))
            if any(map(_may_be_incomplete, entries)):
                return
            for path in entries:  # JAX does not delete damaged programs.
                path.unlink(missing_ok=True)
        if begin not in shown:
            shown.add(begin)
            reason = reason.split("\n")[0]
            console.warn(
                f"{'reading' if is_damaged else 'writing'} compiled programs in {home} fails"
                f" ({reason}): {'they are compiled again' if is_damaged else 'make room there'}"
            )

    return show
