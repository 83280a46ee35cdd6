"""Where a run's numbers come from: command, versions, devices, date."""

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

from rrd_jax import __version__

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


def describe() -> dict[str, Any]:
    """What `config.json` keeps of a start, as JSON.

    Returns:
      `command`; `version` of rrd_jax and `commit` of its checkout, None where it is installed;
      `date`, UTC; `host`, `devices`, `processes`; `python` and `libraries` by name.
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
    }


def versions() -> str:
    """Lines for a report of an error, without the machine's name and folders."""
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
    """How many there are of each kind, such as "8 tpu TPU v5 lite"."""
    kinds = Counter(f"{device.platform} {device.device_kind}" for device in jax.devices())
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def _libraries() -> dict[str, str | None]:
    return {name: _version(name) for name in _LIBRARIES}


def _command() -> str:
    """As it was typed, but for the interpreter's name: `python -m` gives a module's file."""
    module = getattr(sys.modules.get("__main__"), "__spec__", None)
    program = ["-m", module.name.removesuffix(".__main__")] if module else sys.argv[:1]
    return shlex.join(["python", *program, *sys.argv[1:]])


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache  # git looks at every file, and each run of a job asks
def _commit() -> str | None:
    """Of the checkout that this package is part of; `-dirty` is behind it if files were changed."""
    root = pathlib.Path(__file__).absolute().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip() or None
