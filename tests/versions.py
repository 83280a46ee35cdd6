"""The short suite with the oldest and the newest versions that setup.cfg allows (needs uv).

    python -m tests.versions [--pythons=3.11,3.12,3.13] [--resolutions=lowest-direct,highest]

Makes an environment of each Python with each resolution, outside the repository, runs SUITE in it
and prints a row. A Python is a version or a path; one that is not on this machine is left out, in
a line. Ends with 1 where a suite failed or none ran.
"""

import argparse
import configparser
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

_ROOT = pathlib.Path(__file__).parent.parent
# What versions change: arithmetic, golden numbers, losses and their gradients, the step, what is
# kept and read again, worker processes, a whole job, a file that gets out.
SUITE = [
    "tests/jaxlib_test.py",
    "tests/training/metrics_test.py",
    "tests/objectives/rrd_test.py",
    "tests/objectives/kd_test.py",
    "tests/objectives/crd_test.py",
    "tests/networks/golden_test.py",
    "tests/training/step_test.py",
    "tests/frozen_test.py",
    "tests/checkpoints/checkpoints_test.py",
    "tests/data/feed_test.py",
    "tests/exports/weights_test.py",
    "tests/main_test.py",
]
# Of the networks the smallest; of commands the one that trains, for the others need no versions.
_CHOICE = "not golden_test or resnet8 and not resnet8x4"
# Never built from source: the lowest versions that setup.cfg allows may be older than a Python.
_WHEELS = ["numpy", "opencv-python-headless", "pillow", "safetensors", "scikit-learn", "scipy"]
_SHOWN = ["jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy"]


def needs() -> list[str]:
    """What SUITE needs beside the package, as the extra `test` asks for it."""
    config = configparser.ConfigParser()
    config.read(_ROOT / "setup.cfg")
    lines = config["options.extras_require"]["test"].splitlines()
    return [line for line in lines if re.match(r"(chex|hypothesis|pytest)\b", line)]


def _run(*command: object, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        cwd=_ROOT,
        env=os.environ | env,
    )


def _environment(folder: pathlib.Path, python: str, resolution: str) -> str:
    """Makes it; returns "", or what is wrong."""
    made = _run("uv", "venv", "--no-python-downloads", "--python", python, folder)
    if made.returncode:
        reasons = [line for line in made.stderr.splitlines() if line.startswith("error: ")]
        return f"not on this machine ({' '.join(reasons).removeprefix('error: ')})"
    wheels = [f"--only-binary={name}" for name in _WHEELS]
    target = ("--python", folder / "bin/python", f"--resolution={resolution}")
    done = _run("uv", "pip", "install", *wheels, *target, "-e", ".", *needs())
    return f"failed: {done.stderr.strip()}" if done.returncode else ""


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1].strip()


def _suite(python: pathlib.Path) -> tuple[bool, str]:
    """Whether SUITE passes, and pytest's last line, or all that it says."""
    names = ", ".join(f"v('{name}')" for name in _SHOWN)
    found = _run(python, "-c", f"from importlib.metadata import version as v; print({names})")
    versions = " ".join(map(" ".join, zip(_SHOWN, found.stdout.split(), strict=False)))
    options = ("-p", "no:cacheprovider", "-n", "2", "--dist", "loadgroup")
    options += ("-m", "not long", "-k", _CHOICE)
    done = _run(python, "-m", "pytest", *options, *SUITE, JAX_PLATFORMS="cpu")
    said = _last(done.stdout) if done.returncode == 0 else done.stdout + done.stderr
    return done.returncode == 0, f"{versions}: {said}"


def rows(pythons: list[str], resolutions: list[str]) -> Iterator[tuple[bool | None, str]]:
    """Of each pair whether it passed, None where it was left out, and a line."""
    for python in pythons:
        for resolution in resolutions:
            with tempfile.TemporaryDirectory(prefix="rrd_jax_versions_") as home:
                folder = pathlib.Path(home) / "environment"
                name = f"Python {python}, {resolution}"
                if problem := _environment(folder, python, resolution):
                    yield (None if problem.startswith("not on") else False), f"{name}: {problem}"
                    continue
                passed, said = _suite(folder / "bin/python")
                yield passed, f"{name}, {said}"


def main() -> None:
    """Prints a row for each pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pythons", default="3.11,3.12,3.13")
    parser.add_argument("--resolutions", default="lowest-direct,highest")
    options = parser.parse_args()
    if not shutil.which("uv"):
        sys.exit("error: uv is not installed, which makes the environments: pip install uv")
    outcomes = []
    for passed, line in rows(options.pythons.split(","), options.resolutions.split(",")):
        outcomes.append(passed)
        print(line, flush=True)
    sys.exit(0 if any(outcomes) and False not in outcomes else 1)


if __name__ == "__main__":
    main()
