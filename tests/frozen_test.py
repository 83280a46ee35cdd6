"""Jobs end as they always have: to the last bit where that was recorded, else up to rounding."""

import json
import os
import subprocess
import sys

import pytest

from tests import frozen

_QUICK = ["rrd_kd"]
_LONG = [name for name in frozen.JOBS if name not in _QUICK]
# Three steps turn a difference in rounding into at most 0.5 % of a loss between two versions of
# JAX, and flip no image but of these, whose loss of ft is chaotic.
_TOLERANCE, _IMAGES = 0.02, 2 / 24
_CHAOTIC = {("stages", "."): ("train/loss", "train/loss/ft", "train/top1", "test/top1")}
# Eight devices are added up in the order in which they arrive: a busy machine prints other bits.
_UNORDERED = {"devices"}


@pytest.mark.parametrize("names", [_QUICK, pytest.param(_LONG, marks=pytest.mark.long)])
def test_jobs_end_as_recorded(names, tmp_path):
    # As a user's process compiles, not as tests do.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_DISABLE_MOST_OPTIMIZATIONS"}
    command = ["-m", "tests.frozen", f"--only={','.join(names)}", f"--write={tmp_path}/results"]
    subprocess.run([sys.executable, *command], env=environment, check=True)
    results = json.loads((tmp_path / "results").read_text())
    recorded = json.loads(frozen.RECORD.read_text())
    assert set(results) == {"teacher", *names}
    for name, result in results.items():
        figures = frozen.figures(result)
        assert set(figures) == set(recorded["figures"][name])
        for run, wanted in recorded["figures"][name].items():
            _assert_close(figures[run], wanted, skip=_CHAOTIC.get((name, run), ()))
    machine = frozen.fingerprint()
    for entry in recorded["machines"]:
        if entry["fingerprint"] == machine:
            same_bits = set(results) - _UNORDERED
            digests = {name: frozen.digest(results[name]) for name in same_bits}
            assert digests == {name: entry["digests"][name] for name in same_bits}


def _assert_close(figures, wanted, skip):
    for key, value in wanted.items():
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
