"""A workdir that an earlier version left behind goes on."""

import pathlib
import shutil

import pytest

from tests import launch

_WORKDIR = pathlib.Path(__file__).parent / "golden" / "workdir.zip"


@pytest.mark.usefixtures("one_device", "tiny_network")
def test_a_workdir_of_november_2026_goes_on_and_ends_as_an_unbroken_run_did(tmp_path, capsys):
    shutil.unpack_archive(_WORKDIR, tmp_path)
    config = launch.get_config("cifar10", "smoke,tiny-tiny,rrd+kd")
    config.data.image_size = 8
    results = launch.run(config, tmp_path / "workdir")
    said = capsys.readouterr().out
    assert "[teacher]" not in said  # it is trained already
    assert "epoch   1/2" not in said  # so is the first of the two
    assert [result.label for result in results] == ["teacher", "distilled, rrd+kd"]
    rows, unbroken = (launch.rows(tmp_path / name) for name in ("workdir", "unbroken"))
    assert rows[0] == unbroken[0]  # as it was
    for name, value in unbroken[1].items():
        image = 100 / 24
        tolerance = {"abs": image + 1e-3} if "top" in name or "agree" in name else {"rel": 1e-3}
        assert rows[1][name] == pytest.approx(value, **tolerance), name
