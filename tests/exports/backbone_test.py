"""Export of backbones: feature maps and patches, without the classifier."""

import dataclasses

import jax
import numpy as np
import pytest

import rrd_jax
from rrd_jax import errors, export, exports
from rrd_jax.exports import sample_images
from rrd_jax.objectives.parts import projections
from rrd_jax.teacher import wrappers
from tests.exports import exportables

pytestmark = pytest.mark.long

_LARGEST = "mobilenetv4_conv_small"
# The network, its image size and the outputs of its backbone, by side of the maps.
_NETWORKS = {
    "resnet18": (32, {"stage2": 8, "stage3": 4, "stage4": 2, "stage5": 1, "patches": 1}),
    _LARGEST: (
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
    return trial, exports.write(trial, form, path, exports.Options(**options))


@pytest.mark.parametrize(
    "name",
    ["resnet8", "vit_nano_32", "resnet18", _LARGEST],
)
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


def test_the_head_of_an_objective_is_kept(tmp_path):
    pytest.importorskip("onnxruntime")
    source = exportables.exportable(size=16)
    layers = projections.init_head(jax.random.key(0), 64, 5, "linear", None)
    heads = [wrappers.TrainedHead(name, name, layers, True) for name in ("embedding", "patches")]
    network, variables = wrappers.with_heads(source.network, source.variables, heads)
    source = dataclasses.replace(source, network=network, variables=variables)
    projected = exports.make_backbone(source)
    _, written = _write(projected, "onnx", tmp_path)
    outputs = exports.open_file(written.path)(exportables.images(source, 2))
    for name in ("embedding", "patches"):
        np.testing.assert_allclose(np.linalg.norm(outputs[name], axis=-1), 1, atol=1e-5)
        assert (len(outputs[name]), outputs[name].shape[-1]) == (2, 5)
    assert "stage2" in outputs


def test_maps_whose_stride_is_not_whole_are_named(capsys):
    assert _backbone("resnet8", 18)(np.zeros((1, 18, 18, 3), np.uint8)).keys() == {
        "embedding",
        "patches",
    }
    assert "feature maps of 5x5 are not exported" in capsys.readouterr().out


def test_weight_files_hold_custom_networks_that_were_trained_without_labels(tmp_path):
    source = exportables.exportable(exportables.MAPPED, classes=1)
    about = dataclasses.replace(source.about, num_classes=0, class_names=())
    backbone = exports.make_backbone(dataclasses.replace(source, about=about))
    trial, written = _write(backbone, "safetensors", tmp_path)
    loaded = rrd_jax.load(written.path)
    actual = loaded.embed(list(trial.images.images), features="patches")
    np.testing.assert_allclose(actual, trial.reference["patches"], rtol=1e-5, atol=1e-6)


def test_weight_files_cannot_hold_the_preprocessing_of_a_teacher(tmp_path):
    source = exportables.exportable(size=16)
    network = wrappers.Preprocessed(source.network, 32, (1.0,) * 3, (0.0,) * 3, "bilinear")
    backbone = exports.make_backbone(dataclasses.replace(source, network=network))
    with pytest.raises(errors.UnfitError, match="of a run's teacher.* use --format=onnx") as caught:
        _write(backbone, "safetensors", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of exported networks, and of files that exist."""
    folder = tmp_path_factory.mktemp("files")
    form = exports.get_format("safetensors")
    sources = {"resnet8": 16, "vit_nano_32": 32, exportables.CUSTOM: 8, exportables.MAPPED: 8}
    for name, size in sources.items():
        path = folder / f"{name.rpartition(':')[2]}.safetensors"
        form.write(exportables.exportable(name, size=size), path, exports.Options())
    backbone = _backbone("resnet8", 16)
    exports.get_format("stablehlo").write(backbone, folder / "old.stablehlo", exports.Options())
    (folder / "taken.onnx").touch()
    return folder


@pytest.mark.parametrize(
    ("workdir", "form", "fields", "message"),
    [
        ("resnet8", "", {}, "--format is missing; set it to one of safetensors, "),
        ("resnet8", "onx", {}, "unknown format 'onx'; did you mean 'onnx'"),
        ("resnet8", "litert", {}, "not supported by format 'litert'.* use onnx, .* or omit"),
        ("resnet8", "onnx,openvino", {}, "not supported by format 'openvino'.* use onnx, "),
        ("resnet8", "coreml", {}, "not supported by format 'coreml'.* use onnx, "),
        ("resnet8", "safetensors", {"names": "keras"}, "unknown names 'keras'; known: ours, "),
        ("resnet8", "safetensors", {"names": "torchvision"}, "has no resnet8.* use --names=torch"),
        ("vit_nano_32", "safetensors", {"names": "timm"}, "timm has no vit_nano_32.* use --names"),
        ("resnet8", "hub", {"names": "timm"}, "--names is not supported by format 'hub'.* omit it"),
        ("resnet8", "onnx", {"quantize": "int8"}, "--quantize is not supported by .* omit it"),
        ("resnet8", "hub", {"fold": False}, "--nofold is not supported by format 'hub'.* omit it"),
        ("resnet8", "stablehlo", {"license": "mit"}, "--license is not supported by .* omit it"),
        ("resnet8", "hub", {"private": True}, "--private is set without --push; add"),
        ("resnet8", "stablehlo", {"load_options": {"head": "rrd"}}, "is not a run; omit head"),
        ("resnet8", "stablehlo", {"teacher": True}, "has no teacher; omit --teacher"),
        ("resnet8", "onnx", {"load_options": {"class_names": "f.txt"}}, "omit --class_names"),
        ("vit_nano_32", "stablehlo", {"load_options": {"image_size": 30}}, "a multiple of 4"),
        ("resnet8", "stablehlo", {"output": "f.onnx"}, "ends in .stablehlo; use --output="),
        ("resnet8", "onnx", {"output": "taken.onnx"}, "already exists; write elsewhere with"),
        ("resnet8", "onnx", {"output": "taken.onnx", "overwrite": True}, "was not written by this"),
        ("resnet8", "stablehlo", {"images": "missing"}, "missing is not a folder; pass"),
        ("missing", "stablehlo", {}, "no intact checkpoint in .*missing.* pass the workdir"),
        ("old.stablehlo", "stablehlo", {}, "its weights cannot be read; pass the run"),
        ("Custom", "stablehlo", {}, "'tests.*:Custom' does not return both .* omit --backbone"),
        ("Mapped", "safetensors", {}, "cannot hold 'tests.*:Mapped' without .* omit --backbone"),
        ("Mapped", "hub", {}, "cannot hold 'tests.*:Mapped' without its classifier.* use --format"),
    ],
)
def test_bad_inputs_are_refused_in_one_line(workdir, form, fields, message, files, tmp_path):
    path = files / workdir
    path = path if path.suffix or workdir == "missing" else path.with_suffix(".safetensors")
    names = ("output", "images")
    paths = {name: str(files / value) for name, value in fields.items() if name in names}
    options = {"output": f"{tmp_path}/", "check_images": 2, **fields, **paths}
    with pytest.raises(errors.InputError, match=message) as caught:
        export.run(export.Request(path, form.split(",") if form else (), backbone=True, **options))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_classifier_of_an_objective_is_omitted():
    backbone = exports.make_backbone(exportables.with_simkd(exportables.exportable(size=16)))
    assert backbone.variables.keys() == {"params", "batch_stats"}
    assert not backbone.about.classifier
