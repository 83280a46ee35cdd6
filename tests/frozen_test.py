"""Regression tests of whole jobs: bit-exact on recorded machines, up to rounding on others."""

import json
import os
import subprocess
import sys

import pytest

from tests import frozen

_QUICK = ["rrd_kd"]
_LONG = [name for name in frozen.JOBS if name not in _QUICK]
# Between two versions of JAX, three steps amplify differences in rounding to at most 0.5 percent of
# a loss. Predictions change only in the jobs of _CHAOTIC, where the loss of ft is chaotic.
_TOLERANCE, _IMAGES = 0.02, 2 / 24
_CHAOTIC = {("stages", "."): ("train/loss", "train/loss/ft", "train/top1", "test/top1")}
# The results of eight devices are added in the order of arrival, which depends on the load.
_UNORDERED = {"devices"}


@pytest.mark.parametrize("names", [_QUICK, pytest.param(_LONG, marks=pytest.mark.long)])
def test_jobs_reproduce_the_recorded_results(names, tmp_path):
    # The programs are compiled with full optimization, as in a user's process.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_DISABLE_MOST_OPTIMIZATIONS"}
    command = ["-m", "tests.frozen", f"--only={','.join(names)}", f"--write={tmp_path}/results"]
    subprocess.run([sys.executable, *command], env=environment, check=True)
    results = json.loads((tmp_path / "results").read_text())
    recorded = json.loads(frozen.RECORD.read_text())
    assert set(results) == {"teacher", *names}
    for name, result in results.items():
        figures = frozen.figures(result)
        assert set(figures) == set(recorded["figures"][name])
        for run, expected in recorded["figures"][name].items():
            _assert_close(figures[run], expected, skip=_CHAOTIC.get((name, run), ()))
    machine = frozen.fingerprint()
    for entry in recorded["machines"]:
        if entry["fingerprint"] == machine:
            reproducible = set(results) - _UNORDERED
            digests = {name: frozen.digest(results[name]) for name in reproducible}
            assert digests == {name: entry["digests"][name] for name in reproducible}


def _assert_close(figures, expected, skip):
    for key, value in expected.items():
        if key in skip:
            continue
        if key.endswith("top1"):
            assert figures[key] == pytest.approx(value, abs=100 * _IMAGES + 1e-3), key
        else:
            assert figures[key] == pytest.approx(value, rel=_TOLERANCE), key


def test_every_job_is_recorded():
    recorded = json.loads(frozen.RECORD.read_text())
    assert set(recorded["figures"]) == set(frozen.JOBS)
    for entry in recorded["machines"]:
        assert set(entry["digests"]) == set(frozen.JOBS)
