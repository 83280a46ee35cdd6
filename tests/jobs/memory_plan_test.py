"""Runs that do not fit their devices are refused before weights are read."""

import pytest

from rrd_jax import errors
from rrd_jax.jobs import memory_plan
from rrd_jax.weights import files
from tests import launch

_PAIR = "smoke,vit_nano_32-resnet8,rrd"


def _refusal(tmp_path, monkeypatch, megabytes, **fields):
    """Returns the message of a run on devices of some megabytes, whose teacher is never read."""
    path = tmp_path / "teacher.safetensors"
    path.touch()
    monkeypatch.setattr(memory_plan.parallel, "device_bytes", lambda mesh: megabytes * 1e6)
    monkeypatch.setattr(files, "load", None)
    config = launch.digits(_PAIR, **{"teacher.checkpoint": str(path), **fields})
    with pytest.raises(errors.InputError) as error:
        launch.run(config, tmp_path / "run")
    return str(error.value)


@pytest.mark.parametrize("m", [2, 3, 4, 5, 6, 8, 10])
def test_x(tmp_path, monkeypatch, m):
    print(_refusal(tmp_path, monkeypatch, m))
