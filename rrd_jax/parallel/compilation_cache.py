"""Compiled programs on disk, for the next start."""

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
# What begins a line of /proc/cpuinfo that tells processors apart, of Intel and AMD, and of Arm.
_TOLD = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU")
_YOUNG = 10.0  # seconds in which another run may still be writing a program


def enable_compilation_cache(folder: str = "") -> None:
    """Keeps compiled programs on disk; where that cannot be, says so, and goes on without.

    Machines that share a home have folders of their own: a program for another processor may end
    in an illegal instruction.

    Args:
      folder: where; "" for JAX_COMPILATION_CACHE_DIR, or else rrd_jax in the user's cache folder;
        "off" for nowhere.
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
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # many are small
    warnings.showwarning = _shower(home, warnings.showwarning)


def _kind_of_machine() -> str:
    """A name for processors that can run the same programs as well, as far as the system tells.

    XLA divides a program by the cores that its process may use, which JAX's keys leave out.
    """
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        lines = [platform.processor()]
    told = [line for line in lines if line.startswith(_TOLD)]
    known = "\n".join([platform.machine(), *(told or lines)])
    kind = f"{platform.machine()}-{hashlib.sha256(known.encode()).hexdigest()[:8]}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{kind}-{cores}"


def _is_young(path: pathlib.Path) -> bool:
    """Whether a file may not be complete yet."""
    try:
        return time.time() - path.stat().st_mtime < _YOUNG
    except OSError:  # it is gone
        return False


def _shower(home: pathlib.Path, usual: Callable) -> Callable:
    """Shows what JAX warns of a damaged or full cache, once, as our warnings are.

    JAX writes in place: of a program that another run is writing, it may read a part. That is no
    damage, and this run compiles it for itself.

    Args:
      home: the cache.
      usual: shows other warnings.
    """
    said = set()

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
            if any(map(_is_young, entries)):
                return
            for path in entries:  # JAX would leave it there
                path.unlink(missing_ok=True)
        if begin not in said:
            said.add(begin)
            reason = reason.split("\n")[0]
            console.warn(
                f"{'reading' if is_damaged else 'writing'} compiled programs in {home} fails"
                f" ({reason}): {'they are compiled again' if is_damaged else 'make room there'}"
            )

    return show
