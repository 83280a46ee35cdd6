"""Runs a short suite with the oldest and the newest versions that setup.cfg allows (needs uv).

    python -m tests.versions [--pythons=3.11,3.12,3.13] [--resolutions=lowest-direct,highest]

Creates an environment for each Python and each resolution outside the repository, runs SUITE in it
and prints a row. A Python is a version or a path; versions that are not installed are skipped with
a message. The exit code is 1 if a suite failed or none ran.
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
# The features that versions can affect: arithmetic, golden numbers, losses and gradients, the step,
# checkpoints, worker processes, whole jobs and exported files.
SUITE = [
    "tests/jaxlib_test.py",
    "tests/training/metrics_test.py",
    "tests/objectives/rrd_test.py",
    "tests/objectives/kd_test.py",
    "tests/objectives/crd_test.py",
    "tests/networks/golden_test.py",
    "tests/training/step_test.py",
    "tests/checkpoints/checkpoints_test.py",
    "tests/data/feed_test.py",
    "tests/exports/weights_test.py",
    "tests/main_test.py",
]
# Of the golden tests, only the smallest network runs.
_CHOICE = "not golden_test or resnet8 and not resnet8x4"
# Packages that are never built from source: the lowest versions may have no wheel for a new Python.
_WHEELS = ["numpy", "opencv-python-headless", "pillow", "safetensors", "scikit-learn", "scipy"]
_PRINTED_PACKAGES = ["jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy"]


def requirements() -> list[str]:
    """Returns the requirements of SUITE from the extra `test`, next to those of the package."""
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
    """Creates an environment; returns "", or a message if creation failed."""
    created = _run("uv", "venv", "--no-python-downloads", "--python", python, folder)
    if created.returncode:
        reasons = [line for line in created.stderr.splitlines() if line.startswith("error: ")]
        return f"not on this machine ({' '.join(reasons).removeprefix('error: ')})"
    wheels = [f"--only-binary={name}" for name in _WHEELS]
    target = ("--python", folder / "bin/python", f"--resolution={resolution}")
    done = _run("uv", "pip", "install", *wheels, *target, "-e", ".", *requirements())
    return f"failed: {done.stderr.strip()}" if done.returncode else ""


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1].strip()


def _suite(python: pathlib.Path) -> tuple[bool, str]:
    """Runs SUITE; returns True if it passes, and the versions with pytest's summary."""
    names = ", ".join(f"v('{name}')" for name in _PRINTED_PACKAGES)
    result = _run(python, "-c", f"from importlib.metadata import version as v; print({names})")
    versions = " ".join(map(" ".join, zip(_PRINTED_PACKAGES, result.stdout.split(), strict=False)))
    options = ("-p", "no:cacheprovider", "-n", "2", "--dist", "loadgroup")
    options += ("-m", "not long", "-k", _CHOICE)
    done = _run(python, "-m", "pytest", *options, *SUITE, JAX_PLATFORMS="cpu")
    summary = _last(done.stdout) if done.returncode == 0 else done.stdout + done.stderr
    return done.returncode == 0, f"{versions}: {summary}"


def rows(pythons: list[str], resolutions: list[str]) -> Iterator[tuple[bool | None, str]]:
    """Yields for each pair True if SUITE passed (None if it was skipped), and a line to print."""
    for python in pythons:
        for resolution in resolutions:
            with tempfile.TemporaryDirectory(prefix="rrd_jax_versions_") as home:
                folder = pathlib.Path(home) / "environment"
                name = f"Python {python}, {resolution}"
                if problem := _environment(folder, python, resolution):
                    yield (None if problem.startswith("not on") else False), f"{name}: {problem}"
                    continue
                passed, summary = _suite(folder / "bin/python")
                yield passed, f"{name}, {summary}"


def main() -> None:
    """Prints a row for each Python and resolution."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pythons", default="3.11,3.12,3.13")
    parser.add_argument("--resolutions", default="lowest-direct,highest")
    options = parser.parse_args()
    if not shutil.which("uv"):
        sys.exit("error: uv is not installed; install it: pip install uv")
    outcomes = []
    for passed, line in rows(options.pythons.split(","), options.resolutions.split(",")):
        outcomes.append(passed)
        print(line, flush=True)
    sys.exit(0 if any(outcomes) and False not in outcomes else 1)


if __name__ == "__main__":
    main()
