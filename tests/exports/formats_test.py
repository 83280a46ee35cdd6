"""Formats with a runtime: outputs for any batch and network, recognition and damage."""

import itertools
import shutil

import pytest

from rrd_jax import errors, exports
from rrd_jax.exports import Options
from tests.exports import graphs

pytestmark = pytest.mark.long

_MODULES = {
    "stablehlo": ("jax",),
    "litert": ("litert_converter", "ai_edge_litert"),
    "openvino": ("litert_converter", "openvino"),
}

_FAMILIES = ["resnet8x4", "vgg8", "mobilenetv2_cifar", "shufflenetv1_cifar", "shufflenetv2_cifar"]
_NETWORKS = [*graphs.CUSTOM, *_FAMILIES]


def _format(name):
    for module in _MODULES[name]:
        pytest.importorskip(module)
    return exports.get_format(name)


@pytest.fixture(scope="module", params=_MODULES)
def written(request, tmp_path_factory):
    """A format and the path of a network in that format."""
    form = _format(request.param)
    path = tmp_path_factory.mktemp(form.name) / f"Schüler{form.extension}"
    form.write(graphs.exportable(), path, Options())
    return form, path


def test_outputs_equal_the_network_for_batches_of_any_size(written, capfd):
    form, path = written
    runtime = graphs.check_runtime(form, path, graphs.exportable())
    assert runtime.about == graphs.exportable().about
    assert runtime.runtime.startswith(_MODULES[form.name][-1].replace("_", "-") + " ")
    assert form.recognizes(path)
    assert not form.recognizes(path.parent)
    assert not form.recognizes(path.with_name("missing"))
    assert capfd.readouterr() == ("", "")


# StableHLO contains the operations of JAX; the other formats convert each of them.
@pytest.mark.parametrize(
    ("form", "name"),
    [("stablehlo", "linen"), *itertools.product(("litert", "openvino"), _NETWORKS)],
)
def test_every_network_is_exported_with_uint8_images(form, name, tmp_path):
    form, shape = _format(form), (32, 32, 3) if name in _FAMILIES else (8, 8, 1)
    exportable = graphs.exportable(name, shape)
    options = Options(fold=name in _FAMILIES, embed_preprocessing=True)
    form.write(exportable, tmp_path / "file", options)
    graphs.check_runtime(form, tmp_path / "file", exportable, counts=(7, 1))


def test_damaged_files_are_refused(written, tmp_path):
    form, file = written
    if file.is_dir():
        _check_damaged_folders(form, file, tmp_path / "copy")
        return
    path = tmp_path / "renamed.onnx"
    for damage, content in graphs.damages(file.read_bytes()).items():
        path.write_bytes(content)
        with pytest.raises(errors.InputError, match="damaged"):
            form.open(path, 1)
        if damage == "empty":
            assert not form.recognizes(path)
    path.write_bytes(file.read_bytes())
    assert form.recognizes(path)


def _check_damaged_folders(form, folder, copy):
    for name in ("openvino_model.xml", "openvino_model.bin", "model.json"):
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        content = (copy / name).read_bytes()
        for damaged in (b"", content[:-9], content[:20] + b"\7" + content[21:]):
            (copy / name).write_bytes(damaged)
            with pytest.raises(errors.InputError, match="damaged"):
                form.open(copy, 1)
        (copy / name).unlink()
        with pytest.raises(errors.InputError, match=r"lacks|missing"):
            form.open(copy, 1)
