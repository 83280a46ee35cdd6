"""Whole commands with meshes and batches that do not fit the devices."""

import re

import pytest

_FLAGS = ("--config=configs/digits.py:resnet8-resnet8,smoke,rrd+kd", "--config.baseline=False")
_EIGHT = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("mesh=model:3", "mesh=model:3 does not fit the 8 devices .*; set it to data:8$"),
        ("mesh=data:4,model:4", "the product of its sizes is 16; set it to data:2,model:4$"),
        ("mesh=data:4", "the product of its sizes is 4; set it to data:8$"),
        ("mesh=data:4,tensor:2", "mesh is 'data:4,tensor:2', but 'tensor' is not an axis"),
        ("mesh=data:8,data:8", "which has an axis twice"),
        ("mesh=data,model", "which has two axes without a size"),
        ("mesh=data:0", "'0' is not the size of an axis"),
        ("mesh=", "mesh is '', but '' is not an axis; set it to data:SIZE,model:SIZE"),
        ("mesh=model:4 train.batch_size=12", "batch_size=12 is not a multiple of the 8 devices"),
        (
            "mesh=model:4 train.batch_size=24 train.accumulate=2",
            "train.batch_size=24 is not a multiple of the 8 devices times train.accumulate=2",
        ),
    ],
)
def test_a_mesh_or_a_batch_that_does_not_fit_the_devices_is_refused(
    commands, tmp_path, fields, message
):
    flags = [f"--config.{field}" for field in fields.split()]
    outcome = commands.run(*_FLAGS, *flags, f"--workdir={tmp_path / 'run'}", env=_EIGHT)
    assert re.search(message, outcome.check_refused(1, 2), re.MULTILINE), outcome.err
    assert not list(tmp_path.glob("run/**/checkpoints/*"))
