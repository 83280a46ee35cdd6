"""Runs on meshes of eight devices: the numbers of one device, and resumption on another mesh."""

import numpy as np
import pytest

from tests import conftest, launch

_PAIR = "smoke,tiny-tiny,rrd+kd"


def _config(teacher, **fields):
    fields = {"train.ema": 0.5, "objectives.rrd.queue_size": 24, **fields}
    return launch.digits(_PAIR, **{"teacher.checkpoint": str(teacher), **fields})


@pytest.fixture(scope="module")
def rows_of_one_device(tiny_network, tiny_teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_device")
    with pytest.MonkeyPatch.context() as patch:
        conftest.use_one_device(patch)
        launch.run(_config(tiny_teacher), folder)
    return launch.rows(folder)


@pytest.mark.long
def test_a_run_continues_on_another_mesh_with_the_numbers_of_one_device(
    rows_of_one_device, tiny_teacher, tmp_path
):
    launch.preempt(_config(tiny_teacher, mesh="data:2,model:4"), tmp_path, step=3)
    launch.run(_config(tiny_teacher, shard_parameters=True), tmp_path)
    rows = launch.rows(tmp_path)
    assert [row.keys() for row in rows] == [row.keys() for row in rows_of_one_device]
    for row, expected in zip(rows, rows_of_one_device, strict=True):
        for name, value in expected.items():
            np.testing.assert_allclose(row[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
