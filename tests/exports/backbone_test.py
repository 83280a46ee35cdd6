"""Export of backbones: feature maps and patches, without the classifier."""

import dataclasses

import jax
import numpy as np
import pytest

from rrd_jax import errors, exports
from rrd_jax.exports import sample_images
from rrd_jax.objectives.parts import projections
from rrd_jax.teacher import wrappers
from tests.exports import exportables

# The network, its image size and the outputs of its backbone, by side of the maps.
_NETWORKS = {
    "resnet18": (32, {"stage2": 8, "stage3": 4, "stage4": 2, "stage5": 1, "patches": 1}),
    "mobilenetv4_conv_small": (
        64,
        {"stage2": 16, "stage3": 8, "stage4": 4, "stage5": 2, "patches": 2},
    ),
    "vit_nano_32": (32, {"stage2": 8, "patches": 8}),
    "resnet8": (16, {"stage2": 4, "patches": 4}),
}


def _backbone(name, size):
    return exports.make_backbone(exportables.exportable(name, size=size))


def _write(exportable, form, folder, **options):
    images = exportables.images(exportable, 3)
    kind = exportable.about.preprocessing
    trial = exports.Trial(exportable, sample_images.from_arrays(images, kind, 3))
    form = exports.get_format(form)
    path = folder / f"f{form.extension}"
    return trial, exports.write(trial, form, path, exports.Options(backbone=True, **options))


@pytest.mark.parametrize("name", _NETWORKS)
def test_stages_are_named_by_stride_and_the_classifier_is_removed(name):
    size, sides = _NETWORKS[name]
    network = exportables.exportable(name, size=size)
    result = exports.make_backbone(network)
    images = exportables.images(network, 2)
    outputs = result(images)
    assert {key: x.shape[1] for key, x in outputs.items() if x.ndim == 4} == sides
    assert outputs.keys() - sides == {"embedding"}
    assert all(np.isfinite(value).all() for value in outputs.values())
    np.testing.assert_allclose(
        outputs["patches"], network(images, patches=True)["patches"], rtol=1e-5, atol=1e-5
    )
    count = len(jax.tree.leaves(network.variables["params"]))
    assert len(jax.tree.leaves(result.variables["params"])) == count - 2


@pytest.mark.parametrize("name", ["resnet8", "vit_nano_32"])
def test_an_onnx_file_returns_the_feature_maps_channels_first(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    size, sides = _NETWORKS[name]
    trial, written = _write(_backbone(name, size), "onnx", tmp_path)
    assert written.comparison.difference < 1e-4
    session = onnxruntime.InferenceSession(str(written.path))
    assert {output.name for output in session.get_outputs()} == {*sides, "embedding"}
    patches = trial.reference["patches"]
    shape = next(output.shape for output in session.get_outputs() if output.name == "patches")
    assert shape[1:] == [patches.shape[3], *patches.shape[1:3]]


@pytest.mark.parametrize("form", ["safetensors", "stablehlo", "hub"])
def test_other_formats_are_verified(form, tmp_path):
    _, written = _write(_backbone("resnet8", 16), form, tmp_path)
    assert written.comparison.difference < 1e-4


def test_formats_without_backbones_are_refused(tmp_path):
    with pytest.raises(errors.InputError, match="--backbone is not supported by format 'litert'"):
        _write(_backbone("resnet8", 16), "litert", tmp_path)


def test_the_head_of_an_objective_is_kept(tmp_path):
    pytest.importorskip("onnxruntime")
    source = exportables.exportable(size=16)
    head = projections.init_head(jax.random.key(0), 64, 5, "linear", None)
    network, variables = wrappers.projected(source.network, source.variables, head, is_unit=True)
    source = dataclasses.replace(source, network=network, variables=variables)
    projected = exports.make_backbone(source)
    _, written = _write(projected, "onnx", tmp_path)
    outputs = exports.open_file(written.path)(exportables.images(source, 2))
    np.testing.assert_allclose(np.linalg.norm(outputs["embedding"], axis=1), 1, atol=1e-5)
    assert outputs["embedding"].shape == (2, 5)
    assert "stage2" in outputs


def test_networks_without_maps_and_patches_are_refused():
    with pytest.raises(errors.InputError, match="--backbone needs an embedding"):
        _backbone(exportables.CUSTOM, 8)
