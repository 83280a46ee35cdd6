"""OpenVINO's folders."""

import shutil

import pytest

from rrd_jax import errors
from rrd_jax.exports import interface, openvino
from tests.exports import graphs

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("openvino") / "Schüler"
    openvino.FORMAT.write(graphs.exportable(), path, interface.Options())
    return path


@pytest.mark.parametrize("name", ["openvino_model.xml", "openvino_model.bin", "model.json"])
def test_damaged_folders_are_refused(folder, tmp_path, name):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    content = (copy / name).read_bytes()
    for damaged in (b"", content[:-9], content[:20] + b"\7" + content[21:]):
        (copy / name).write_bytes(damaged)
        with pytest.raises(errors.InputError, match="damaged"):
            openvino.FORMAT.open(copy, 1)
    (copy / name).unlink()
    with pytest.raises(errors.InputError, match=r"lacks|missing"):
        openvino.FORMAT.open(copy, 1)
