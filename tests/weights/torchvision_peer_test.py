"""Networks of torchvision that share modules with timm: files and outputs in both directions."""

import jax
import numpy as np
import pytest

from rrd_jax import errors, exports, networks
from rrd_jax.exports import Options
from rrd_jax.weights import files, from_torch, published, to_torch
from tests import fresh, golden
from tests.exports import exportables
from tests.networks import modern
from tests.weights import peers

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

_QUICK = ("mobilenet_v3_small",)
# A network for each table of entry names.
_OTHERS = (
    *("vit_b_32", "convnext_tiny", "efficientnet_b0", "efficientnet_v2_s"),
    "regnet_y_400mf",
)
_NAMES = fresh.mark_long_except([*_QUICK, *_OTHERS], _QUICK)


def _build(name, side):
    """Builds a network with random statistics and with blocks that do not amplify rounding."""
    size_options = {"image_size": side} if name.startswith("vit") else {}
    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(num_classes=10, **size_options).eval()
    rng = np.random.default_rng(0)
    for entry, value in network.state_dict().items():
        if (value.ndim <= 1 and value.is_floating_point()) or "layer_scale" in entry:
            noise = 0.1 * torch.from_numpy(rng.standard_normal(tuple(value.shape)).astype("f"))
            value.copy_(value + noise.abs() if "var" in entry else value + noise)
    return network


def _images(side):
    return np.random.default_rng(side).standard_normal((2, side, side, 3), np.float32)


def _logits(network, images):
    with torch.inference_mode():
        return network(peers.to_torch(images)).numpy()


def _sides(name):
    """Returns a small image size, and the published one of a transformer, which is built for it."""
    return (networks.image_size(name), 96) if name.startswith("vit") else (96,)


@pytest.mark.parametrize("name", _NAMES)
def test_outputs_equal_torchvision_and_files_survive_a_round_trip(name, tmp_path):
    for side in _sides(name):
        network, path = _build(name, side), tmp_path / f"{side}.pth"
        torch.save({"model": network.state_dict()}, path)
        variables, meta = files.load(path, name)
        assert meta["model"] == networks.canonical(name)
        outputs = jax.jit(networks.create(name, 10).apply)(variables, _images(side))
        assert golden.relative(outputs.logits, _logits(network, _images(side))) < 1e-5
    restored = to_torch(name, variables, layout="torchvision")
    assert restored.keys() == network.state_dict().keys()
    for entry, value in network.state_dict().items():
        assert restored[entry].shape == tuple(value.shape)
        np.testing.assert_array_equal(restored[entry], value.numpy())


@pytest.mark.filterwarnings("ignore")
def test_exported_files_load_in_torchvision_with_equal_outputs(tmp_path):
    name = "mobilenet_v3_small"
    exportable = exportables.exportable(networks.canonical(name), size=64, channels=1)
    expected = exportable(exportables.images(exportable))
    for form, file in (("safetensors", "a.safetensors"), ("torch", "a.pth")):
        path = tmp_path / file
        exports.get_format(form).write(exportable, path, Options(names="torchvision"))
        runtime = exports.open_file(path, 1)
        assert "torchvision" in runtime.runtime
        computed = runtime(exportables.images(exportable))
        for output in ("logits", "embedding"):
            assert golden.relative(computed[output], expected[output]) < 1e-5
        variables, _ = files.load(path, name)
        jax.tree.map(np.testing.assert_array_equal, variables, exportable.variables)


def test_former_names_of_mlps_in_published_files_are_read():
    network = _build("vit_b_32", 64)
    former = {
        entry.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): value
        for entry, value in network.state_dict().items()
    }
    restored = to_torch("vit_b_32", from_torch("vit_base_patch32_224", former))
    for entry, value in network.state_dict().items():
        np.testing.assert_array_equal(restored[entry], value.numpy())


def test_a_file_of_another_library_is_refused_unless_the_networks_are_equal(
    monkeypatch,
):
    names = ("regnety_004", "mobilenet_v3_small", "mobilenetv3_small_100")
    monkeypatch.setattr(networks, "MODELS", {name: networks.MODELS[name] for name in names})
    timm = pytest.importorskip("timm")
    state_dict = timm.create_model("regnety_004", num_classes=10).state_dict()
    variables = from_torch("regnet_y_400mf", state_dict)
    assert to_torch("regnety_004", variables).keys() == state_dict.keys()
    small = timm.create_model("mobilenetv3_small_100", num_classes=10).state_dict()
    with pytest.raises(errors.InputError, match="it fits mobilenetv3_small_100"):
        from_torch("mobilenet_v3_small", small)
    small = torchvision.models.mobilenet_v3_small(num_classes=10).state_dict()
    with pytest.raises(errors.InputError, match="it fits mobilenet_v3_small$"):
        from_torch("mobilenetv3_small_100", small)


def test_the_layout_of_a_library_without_the_network_is_refused():
    variables = networks.summarize(networks.create("mobilenet_v3_small", 10), (64, 64, 3)).variables
    with pytest.raises(errors.InputError, match="'timm' has no network.*: torchvision"):
        to_torch("mobilenet_v3_small", variables, layout="timm")
    assert published.lookup("mobilenetv3_small_100").torchvision == ""


@pytest.mark.parametrize("name", fresh.mark_long_except(modern.TORCHVISION, _QUICK))
def test_sizes_equal_torchvision(name):
    # RegNets read values of tensors when they are built.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        network = getattr(torchvision.models, name)(num_classes=10)
    side = networks.image_size(name)
    summary = networks.summarize(networks.create(name, 10), (side, side, 3))
    assert summary.parameters == sum(p.numel() for p in network.parameters())
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    epsilon = getattr(networks.create(name, 10), "epsilon", 1e-5)
    assert {(m.eps, round(1 - m.momentum, 6)) for m in norms} <= {
        (epsilon, getattr(networks.create(name, 10), "momentum", 0.9))
    }
