"""The origin of figures: the processor, versions, and the command without local paths."""

import importlib.metadata
import pathlib
import platform
import shlex
import subprocess
import sys

from rrd_jax import errors


def processor(device: str = "cpu") -> str:
    """Returns the name of a device; for "cpu", the processor's model name if Linux reports it."""
    info = pathlib.Path("/proc/cpuinfo")
    text = info.read_text() if device == "cpu" and info.exists() else ""
    names = [line.partition(":")[2].strip() for line in text.split("\n") if "model name" in line]
    return names[0] if names else device


def versions(*packages: str) -> str:
    """Returns versions of Python and packages, such as "Python 3.13.5, jax 0.12.0.1"."""
    listed = (f"{name} {importlib.metadata.version(name)}" for name in packages)
    return ", ".join([f"Python {platform.python_version()}", *listed])


def run_line(python: str, program: str) -> str:
    """Returns the output of a line of Python in another interpreter.

    This process starts no devices.

    Raises:
      InputError: the interpreter fails.
    """
    process = subprocess.run([python, "-c", program], capture_output=True, text=True)
    if process.returncode:
        reason = (process.stderr.strip() or f"exit code {process.returncode}").split("\n")[-1]
        raise errors.InputError(f"{python} cannot be used: {reason}")
    return process.stdout.strip()


def command(module: str) -> str:
    """Returns the command that started this program, without local paths."""
    arguments = []
    for argument in sys.argv[1:]:
        name = argument.lstrip("-").partition("=")[0]
        if name == "torch_python":
            argument = "--torch_python=PYTHON"
        if name != "workdir":
            arguments.append(argument)
    return shlex.join(["python", "-m", module, *arguments])
