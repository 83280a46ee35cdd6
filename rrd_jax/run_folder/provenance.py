"""Provenance of a run: command, versions, devices and date."""

import datetime
import functools
import importlib.metadata
import pathlib
import platform
import shlex
import socket
import subprocess
import sys
from collections import Counter
from typing import Any

import jax

from rrd_jax import __version__, errors
from rrd_jax.run_folder import jax_settings

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


def describe() -> dict[str, Any]:
    """Returns the provenance of this start, as `config.json` stores it.

    Returns:
      `command`; `version` of rrd_jax and `commit` of its checkout, None for an installed package;
      `date`, UTC; `host`, `devices`, `processes`; `python` and `libraries`, versions by name;
      `settings`, see `jax_settings.describe`.
    """
    return {
        "command": _command(),
        "version": __version__,
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "devices": devices(),
        "processes": jax.process_count(),
        "python": platform.python_version(),
        "libraries": _libraries(),
        "settings": jax_settings.describe(),
    }


def versions() -> str:
    """Returns the versions for a bug report, without the machine's name and folders."""
    commit = _commit()
    libraries = ", ".join(f"{name} {version}" for name, version in _libraries().items())
    return "\n".join(
        [
            f"rrd_jax {__version__}" + (f", commit {commit}" if commit else ""),
            f"Python {platform.python_version()}, {platform.platform()}",
            libraries,
        ]
    )


def devices() -> str:
    """Returns the number of devices of each kind, such as "8 tpu TPU v5 lite"."""
    kinds = Counter(f"{device.platform} {device.device_kind}" for device in jax.devices())
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def _libraries() -> dict[str, str | None]:
    return {name: _version(name) for name in _LIBRARIES}


def _command() -> str:
    """Returns the command as typed, with `python` as the interpreter.

    For `python -m`, sys.argv holds the file of the module instead of its name.
    """
    module = getattr(sys.modules.get("__main__"), "__spec__", None)
    program = ["-m", module.name.removesuffix(".__main__")] if module else sys.argv[:1]
    return errors.redacted(shlex.join(["python", *program, *sys.argv[1:]]))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


# `git describe --dirty` reads the status of every file, and each run of a job needs the commit.
@functools.cache
def _commit() -> str | None:
    """Returns the commit of this package's checkout, with the suffix `-dirty` if files differ."""
    root = pathlib.Path(__file__).absolute().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None
