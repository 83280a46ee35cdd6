"""Formats with a runtime: outputs for any batch and network, recognition and damage."""

import pytest

from rrd_jax import errors, exports
from rrd_jax.exports import Options
from tests import fresh
from tests.exports import graphs

_MODULES = {
    "stablehlo": ("jax",),
    "litert": ("litert_converter", "ai_edge_litert"),
    "openvino": ("litert_converter", "openvino"),
}
_RUNTIMES = {"stablehlo": "jax ", "litert": "ai-edge-litert ", "openvino": "openvino "}
_FAMILIES = ["resnet8x4", "vgg8", "mobilenetv2_cifar", "shufflenetv1_cifar", "shufflenetv2_cifar"]
_NETWORKS = fresh.all_but_quick_are_long([*graphs.OWN, *_FAMILIES], ["linen", "equinox"])


def _format(name):
    for module in _MODULES[name]:
        pytest.importorskip(module)
    return exports.get(name)


@pytest.fixture(scope="module", params=_MODULES)
def written(request, tmp_path_factory):
    """Returns a format, and the path of a network in it."""
    form = _format(request.param)
    path = tmp_path_factory.mktemp(form.name) / f"Schüler{form.extension}"
    form.write(graphs.exportable(), path, Options())
    return form, path


def _check(form, path, exportable, counts=(1, 7, 20, 1)):
    runtime, shape = form.open(path, 1), exportable.about.preprocessing.image_shape
    for count in counts:
        images = graphs.images(count, shape)
        graphs.check_same(runtime(images), exportable(images))
    return runtime


def test_outputs_are_the_networks_for_batches_of_any_size(written, capfd):
    form, path = written
    runtime = _check(form, path, graphs.exportable())
    assert runtime.about == graphs.exportable().about
    assert runtime.runtime.startswith(_RUNTIMES[form.name])
    assert form.recognizes(path)
    assert not form.recognizes(path.parent)
    assert not form.recognizes(path.with_name("missing"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", _NETWORKS)
@pytest.mark.parametrize(
    "form", ["stablehlo", "litert", pytest.param("openvino", marks=pytest.mark.long)]
)
def test_every_network_with_uint8_images(form, name, tmp_path):
    form, shape = _format(form), (32, 32, 3) if name in _FAMILIES else (8, 8, 1)
    exportable = graphs.exportable(name, shape)
    options = Options(fold=name in _FAMILIES, embed_preprocessing=True)
    form.write(exportable, tmp_path / "file", options)
    _check(form, tmp_path / "file", exportable, (7, 1))


def test_damaged_files_are_refused(written, tmp_path):
    form, file = written
    if file.is_dir():
        pytest.skip("see openvino_test")
    path = tmp_path / "renamed.onnx"
    for damage, content in graphs.damages(file.read_bytes()).items():
        path.write_bytes(content)
        with pytest.raises(errors.InputError, match="damaged"):
            form.open(path, 1)
        if damage == "empty":
            assert not form.recognizes(path)
    path.write_bytes(file.read_bytes())
    assert form.recognizes(path)
