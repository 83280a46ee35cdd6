"""Where figures come from: the processor, versions, and the command without paths of a machine."""

import importlib.metadata
import pathlib
import platform
import shlex
import subprocess
import sys

from rrd_jax import errors


def processor(device: str = "cpu") -> str:
    """The name of what JAX calls "cpu", where Linux knows it; of another device, as JAX has it."""
    info = pathlib.Path("/proc/cpuinfo")
    text = info.read_text() if device == "cpu" and info.exists() else ""
    names = [line.partition(":")[2].strip() for line in text.split("\n") if "model name" in line]
    return names[0] if names else device


def versions(*packages: str) -> str:
    """Returns versions of Python and packages, such as "Python 3.13.5, jax 0.12.0.1"."""
    found = (f"{name} {importlib.metadata.version(name)}" for name in packages)
    return ", ".join([f"Python {platform.python_version()}", *found])


def run_line(python: str, program: str) -> str:
    """Returns what an interpreter prints for a line of Python; this process leaves devices alone.

    Raises:
      InputError: the interpreter fails.
    """
    done = subprocess.run([python, "-c", program], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").split("\n")[-1]
        raise errors.InputError(f"{python} cannot be used: {reason}")
    return done.stdout.strip()


def command(module: str) -> str:
    """How this program was started, paths of this machine left out."""
    kept = []
    for argument in sys.argv[1:]:
        name = argument.lstrip("-").partition("=")[0]
        if name == "torch_python":
            argument = "--torch_python=PYTHON"
        if name != "workdir":
            kept.append(argument)
    return shlex.join(["python", "-m", module, *kept])
