"""Backbones loaded in timm and torchvision, also as the first part of a detector."""

import pathlib

import numpy as np
import pytest

from rrd_jax import exports
from rrd_jax.exports import Options
from tests import pages
from tests.exports import exportables

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")

# Stages 2 to 5 in torchvision.
_NODES = {
    "resnet18": ["layer1", "layer2", "layer3", "layer4"],
    "convnext_tiny": ["features.1", "features.3", "features.5", "features.7"],
    "mobilenet_v3_large": ["features.3", "features.6", "features.12", "features.16"],
}
_FILE = pathlib.Path(__file__).name
_STAGES = [f"stage{i}" for i in range(2, 6)]


class _Backbone:
    """A backbone with random weights, and its outputs for two images of 32x32 pixels."""

    def __init__(self, name):
        self.name = name
        self.exportable = exports.make_backbone(exportables.exportable(name, size=32))
        images = exportables.images(self.exportable, 2)
        self.outputs = self.exportable(images)
        normalized = np.asarray(self.exportable.normalize(images))
        self.images = torch.from_numpy(normalized.transpose(0, 3, 1, 2).copy())

    def write(self, form, path, **options):
        exports.get_format(form).write(self.exportable, path, Options(**options))
        return path

    def check(self, name, actual):
        """Compares an output of PyTorch, whose maps have channels first."""
        actual, expected = actual.detach().numpy(), self.outputs[name]
        actual = actual.transpose(0, 2, 3, 1) if actual.ndim == 4 else actual
        assert actual.shape == expected.shape
        assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.fixture(scope="module")
def backbones():
    """Backbones by name, each computed once."""
    return {}


@pytest.fixture
def backbone(backbones, request):
    name = request.param
    backbones[name] = backbones.get(name) or _Backbone(name)
    return backbones[name]


def _networks(*names):
    """Parametrizes a test over networks, of which the first is quick."""
    params = [pytest.param(name, marks=pytest.mark.long) for name in names[1:]]
    return pytest.mark.parametrize("backbone", [names[0], *params], indirect=True)


@_networks(
    *("resnet18", "mobilenetv4_conv_small", "convnext_tiny"),
    *("efficientvit_b0", "tiny_vit_5m_224", "edgenext_xx_small"),
)
def test_timm_reads_feature_maps_from_a_folder(backbone, tmp_path):
    folder = backbone.write("hub", tmp_path / "hub")
    network = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True).eval()
    with torch.inference_mode():
        maps = network(backbone.images)
    for stage, computed in zip(_STAGES, maps[-4:], strict=True):
        backbone.check(stage, computed)


@_networks("resnet18", "mobilenetv4_conv_small", "vit_tiny_patch16_224")
def test_timm_loads_the_weights_strictly_without_a_classifier(backbone, tmp_path):
    path = backbone.write("torch", tmp_path / "f.pth", names="timm")
    sizes = {"img_size": 32} if backbone.name.startswith("vit") else {}
    network = timm.create_model(backbone.name, num_classes=0, **sizes).eval()
    network.load_state_dict(torch.load(path, weights_only=True), strict=True)
    with torch.inference_mode():
        backbone.check("embedding", network(backbone.images))
        _, (computed,) = network.forward_intermediates(backbone.images, indices=1, norm=True)
    backbone.check("patches", computed)


@_networks("resnet18", *(name for name in _NODES if name != "resnet18"))
def test_torchvision_extracts_the_feature_maps(backbone, tmp_path):
    path = backbone.write("torch", tmp_path / "f.pth", names="torchvision")
    runtime = exports.open_file(path)
    assert "torchvision" in runtime.runtime
    nodes = dict(zip(_NODES[backbone.name], _STAGES, strict=True))
    network = torchvision.models.feature_extraction.create_feature_extractor(runtime.module, nodes)
    with torch.inference_mode():
        backbone.check("embedding", runtime.module(backbone.images))
        for stage, computed in network(backbone.images).items():
            backbone.check(stage, computed)


@_networks("resnet18")
@pytest.mark.parametrize(
    "detector", ["retina_net", pytest.param("mask_rcnn", marks=pytest.mark.long)]
)
def test_detectors_of_the_page_train(detector, backbone, tmp_path, monkeypatch):
    backbone.write("torch", tmp_path / "resnet18-backbone.pth", names="torchvision")
    monkeypatch.chdir(tmp_path)
    (block,) = (b for b in pages.blocks("docs/export.md") if b.mark.endswith(f"/{_FILE}"))
    variables = {}
    exec(block.text, variables)
    network, resnet = variables[detector], variables["resnet"]
    np.testing.assert_allclose(network.transform.image_mean, (0.4, 0.5, 0.6), rtol=1e-6)
    np.testing.assert_allclose(network.transform.image_std, (0.2, 0.25, 0.3), rtol=1e-6)
    network.transform.min_size, network.transform.max_size = (64,), 64
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[:, 8:40, 8:40] = 1
    box, label = torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.tensor([1])
    losses = network([torch.rand(3, 64, 64)], [{"boxes": box, "labels": label, "masks": masks}])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert float(resnet.conv1.weight.grad.abs().max()) > 0
    network.eval()
    with torch.inference_mode():
        (detections,) = network([torch.rand(3, 64, 64)])
    assert {"boxes", "labels", "scores"} <= detections.keys()
