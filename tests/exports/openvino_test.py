"""OpenVINO's folders."""

import shutil

import pytest

from rrd_jax import errors
from rrd_jax.exports import interface, openvino
from tests.exports import graphs

pytest.importorskip("openvino")
_FAMILIES = ["resnet8x4", "vgg8", "mobilenetv2_cifar", "shufflenetv1_cifar", "shufflenetv2_cifar"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("openvino") / "Schüler"
    openvino.FORMAT.write(graphs.exportable(), path, interface.Options())
    return path


def _same(exportable, path):
    runtime = openvino.FORMAT.open(path, 1)
    for count in (1, 7, 1):
        images = graphs.images(count, exportable.about.preprocessing.image_shape)
        graphs.check_same(runtime(images), exportable(images))
    return runtime


def test_a_folder_computes_the_same_for_batches_of_any_size(folder, capfd):
    runtime = _same(graphs.exportable(), folder)
    assert runtime.about == graphs.exportable().about
    assert runtime.runtime.startswith("openvino ")
    assert openvino.FORMAT.recognizes(folder)
    assert not openvino.FORMAT.recognizes(folder.parent)
    assert capfd.readouterr() == ("", "")


@pytest.mark.long
@pytest.mark.parametrize("name", [*graphs.OWN, *_FAMILIES])
def test_every_network_computes_the_same_and_takes_uint8(name, tmp_path):
    shape = (32, 32, 3) if name in _FAMILIES else (8, 8, 1)
    exportable = graphs.exportable(name, shape)
    options = interface.Options(fold=name in _FAMILIES, embed_preprocessing=True)
    openvino.FORMAT.write(exportable, tmp_path / "folder", options)
    _same(exportable, tmp_path / "folder")


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


def test_other_things_are_no_folders_of_it(tmp_path):
    (tmp_path / "file").write_text("x")
    assert not openvino.FORMAT.recognizes(tmp_path / "file")
    assert not openvino.FORMAT.recognizes(tmp_path / "missing")
