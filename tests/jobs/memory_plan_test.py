"""Runs that do not fit their devices are refused before weights are read."""

import re

import jax
import numpy as np
import pytest

from rrd_jax import checkpoints, errors, networks
from rrd_jax.parallel import device_memory
from tests import fresh, launch

_PAIR = "smoke,vit_nano_32-resnet8,rrd"


def _limit(tmp_path, monkeypatch, megabytes):
    """Limits the memory of this host, which its devices share equally, as a container does."""
    file = tmp_path / "memory.max"
    file.write_text(str(int(megabytes * 1e6) * len(jax.devices())))
    monkeypatch.setattr(device_memory, "_LIMITS", (str(file),))


def _refusal(tmp_path, **fields):
    """Returns the error of a run whose teacher has no content."""
    path = tmp_path / "teacher.safetensors"
    path.touch()
    config = launch.digits(_PAIR, **{"teacher.checkpoint": str(path), **fields})
    with pytest.raises(errors.InputError) as error:
        launch.run(config, tmp_path / "refused")
    assert str(error.value).startswith("not enough device memory: a step needs at least")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("megabytes", "fields", "pattern"),
    [
        (5, {}, "set mesh=data:2,model:4 or shard_parameters=True, with about"),
        (1.7, {"train.batch_size": 16}, "use 16 devices with shard_parameters=True, with about"),
        (1.7, {"train.batch_size": 8}, "more devices are not enough; set .*smaller network"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_fits(
    megabytes, fields, pattern, tmp_path, monkeypatch
):
    _limit(tmp_path, monkeypatch, megabytes)
    assert re.search(pattern, text := _refusal(tmp_path, **fields)), text


@pytest.mark.long
@pytest.mark.parametrize("fields", [{}, {"mesh": "data:2,model:4"}, {"shard_parameters": True}])
def test_the_plan_counts_the_arrays_of_a_step(fields, tmp_path, monkeypatch, capsys):
    pattern = r"state ([\d.]+ .B), teacher ([\d.]+ .B)"
    network = networks.create("vit_nano_32", 10)
    variables = jax.tree.map(np.asarray, fresh.init(network, (32, 32, 1), 0))
    meta = {"model": "vit_nano_32", "num_classes": 10, "image_shape": [32, 32, 1]}
    checkpoints.save_network(tmp_path / "teacher", variables, meta)
    path = {"teacher.checkpoint": str(tmp_path / "teacher")}
    launch.run(launch.digits(_PAIR, **fields, **path), tmp_path / "run")
    placed = re.search(f"memory per device: .*{pattern}", capsys.readouterr().out).groups()
    _limit(tmp_path, monkeypatch, 0.2)
    assert re.search(pattern, _refusal(tmp_path, **fields)).groups() == placed
