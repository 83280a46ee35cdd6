"""torchvision's networks that have timm's modules here: its files both ways, and its numbers."""

import jax
import numpy as np
import pytest

from rrd_jax import errors, exports, networks
from rrd_jax.exports import Options
from rrd_jax.weights import files, from_torch, published, to_torch
from tests import fresh, golden
from tests.exports import made
from tests.networks import modern

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

_QUICK = ("mobilenet_v3_small",)
# One of each table of names, or two.
_OTHERS = (
    *("vit_b_32", "convnext_tiny", "efficientnet_b0", "efficientnet_v2_s"),
    *("mobilenet_v3_large", "regnet_y_400mf", "regnet_y_800mf"),
)
_NAMES = fresh.mark_long_except([*_QUICK, *_OTHERS], _QUICK)


def _build(name, side):
    """With statistics that are not at their defaults, and blocks that do not magnify rounding."""
    sized = {"image_size": side} if name.startswith("vit") else {}
    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(num_classes=10, **sized).eval()
    rng = np.random.default_rng(0)
    for entry, value in network.state_dict().items():
        if (value.ndim <= 1 and value.is_floating_point()) or "layer_scale" in entry:
            drawn = 0.1 * torch.from_numpy(rng.standard_normal(tuple(value.shape)).astype("f"))
            value.copy_(value + drawn.abs() if "var" in entry else value + drawn)
    return network


def _images(side):
    return np.random.default_rng(side).standard_normal((2, side, side, 3), np.float32)


def _logits(network, images):
    with torch.inference_mode():
        return network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()


def _sides(name):
    """The size that is published, and another; of transformers other embeddings go with that."""
    side = networks.image_size(name)
    return (side, side // 7 * 3) if name.startswith("vit") else (side, 96)


@pytest.mark.parametrize("name", _NAMES)
def test_a_file_of_torchvisions_gives_its_numbers_and_is_written_as_it_was(name, tmp_path):
    for i, side in enumerate(_sides(name)):
        if not i or name.startswith("vit"):
            network, path = _build(name, side), tmp_path / f"{side}.pth"
            torch.save({"model": network.state_dict()}, path)
            variables, meta = files.load(path, name)
        assert meta["model"] == networks.canonical(name)
        outputs = jax.jit(networks.create(name, 10).apply)(variables, _images(side))
        assert golden.relative(outputs.logits, _logits(network, _images(side))) < 1e-5
    back = to_torch(name, variables, layout="torchvision")
    assert back.keys() == network.state_dict().keys()
    for entry, value in network.state_dict().items():
        assert back[entry].shape == tuple(value.shape)
        np.testing.assert_array_equal(back[entry], value.numpy())


@pytest.mark.filterwarnings("ignore")
def test_what_is_exported_loads_strictly_and_computes_the_same(tmp_path):
    name = "mobilenet_v3_small"
    exportable = made.exportable(networks.canonical(name), size=64, channels=1)
    wanted = exportable(made.images(exportable))
    for form, file in (("safetensors", "a.safetensors"), ("torch", "a.pth")):
        path = tmp_path / file
        exports.get_format(form).write(exportable, path, Options(names="torchvision"))
        runtime = exports.open_file(path, 1)
        assert "torchvision" in runtime.runtime
        computed = runtime(made.images(exportable))
        for output in ("logits", "embedding"):
            assert golden.relative(computed[output], wanted[output]) < 1e-5
        found, _ = files.load(path, name)
        jax.tree.map(np.testing.assert_array_equal, found, exportable.variables)


def test_the_files_that_torchvision_published_have_former_names_of_mlps():
    network = _build("vit_b_32", 64)
    former = {
        entry.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): value
        for entry, value in network.state_dict().items()
    }
    found = to_torch("vit_b_32", from_torch("vit_base_patch32_224", former))
    for entry, value in network.state_dict().items():
        np.testing.assert_array_equal(found[entry], value.numpy())


def test_a_file_of_the_other_library_is_taken_where_it_computes_the_same_and_else_refused(
    monkeypatch,
):
    names = ("regnety_004", "mobilenet_v3_small", "mobilenetv3_small_100")
    monkeypatch.setattr(networks, "MODELS", {name: networks.MODELS[name] for name in names})
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("regnety_004", num_classes=10).state_dict()
    variables = from_torch("regnet_y_400mf", theirs)
    assert to_torch("regnety_004", variables).keys() == theirs.keys()
    small = timm.create_model("mobilenetv3_small_100", num_classes=10).state_dict()
    with pytest.raises(errors.InputError, match="it fits mobilenetv3_small_100"):
        from_torch("mobilenet_v3_small", small)
    small = torchvision.models.mobilenet_v3_small(num_classes=10).state_dict()
    with pytest.raises(errors.InputError, match="it fits mobilenet_v3_small$"):
        from_torch("mobilenetv3_small_100", small)


def test_a_library_without_the_network_has_no_names_of_it():
    variables = networks.summarize(networks.create("mobilenet_v3_small", 10), (64, 64, 3)).variables
    with pytest.raises(errors.InputError, match="'timm' has no network.*: torchvision"):
        to_torch("mobilenet_v3_small", variables, layout="timm")
    assert published.lookup("mobilenetv3_small_100").torchvision == ""


@pytest.mark.parametrize("name", fresh.mark_long_except(modern.TORCHVISION, _QUICK))
def test_sizes_are_torchvisions(name):
    network = getattr(torchvision.models, name)(num_classes=10)
    side = networks.image_size(name)
    summary = networks.summarize(networks.create(name, 10), (side, side, 3))
    assert summary.parameters == sum(p.numel() for p in network.parameters())
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    ours = getattr(networks.create(name, 10), "epsilon", 1e-5)
    assert {(m.eps, round(1 - m.momentum, 6)) for m in norms} <= {
        (ours, getattr(networks.create(name, 10), "momentum", 0.9))
    }
