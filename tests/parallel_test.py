import socket

import jax
import pytest

from rrd_jax import errors, parallel
from rrd_jax.parallel import processes


def test_nobody_at_the_coordinators_address_is_one_line(monkeypatch):
    monkeypatch.setattr(processes, "_PATIENCE", 0.1)
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("localhost", 0))
        address = f"localhost:{taken.getsockname()[1]}"
        with pytest.raises(errors.InputError, match=f"does not answer at --coordinator={address}"):
            parallel.start(address, 2, 1)


def test_the_only_task_of_slurm_joins_nobody(monkeypatch):
    for name, value in {"NTASKS": "1", "JOB_ID": "7", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_STEP_NODELIST", "localhost")
    parallel.start()
    assert not jax.distributed.is_initialized()
