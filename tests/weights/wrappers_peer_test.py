"""Files of timm and of PyTorch wrappers, compared with the loader of timm."""

import numpy as np
import pytest

from rrd_jax.weights import files, to_torch

torch = pytest.importorskip("torch")


def _load(path, name="resnet18"):
    return to_torch(name, files.load(path, name)[0])


def _assert_same(actual, expected):
    for name, value in expected.items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(actual[name], value.numpy())


def test_the_loader_of_timm_selects_the_same_weights(tmp_path):
    timm = pytest.importorskip("timm")
    raw, average = (timm.create_model("resnet18", num_classes=10).state_dict() for _ in range(2))
    parallel = {f"module.{name}": value for name, value in raw.items()}
    path = tmp_path / "t.pth"
    for content in (
        {"model": raw},
        {"state_dict": {f"_orig_mod.{name}": value for name, value in raw.items()}},
        {"state_dict": parallel, "state_dict_ema": average},
        {"model": raw, "model_ema": average},
        {"model": raw, "model_ema": raw, "state_dict_ema": average},
    ):
        torch.save(content, path)
        _assert_same(_load(path), timm.models.load_state_dict(str(path), use_ema=True))


def test_prefixes_of_module_wrappers_are_removed(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    network = torchvision.models.resnet18(weights=None, num_classes=10)
    path, expected = tmp_path / "t.pth", network.state_dict()
    averaged = torch.optim.swa_utils.AveragedModel(network)
    averaged.update_parameters(network)
    for wrapped in (
        averaged,
        torch.nn.DataParallel(network),
        torch.compile(network),
        torch.compile(torch.nn.DataParallel(network)),
    ):
        torch.save(wrapped.state_dict(), path)
        _assert_same(_load(path), expected)
    network.layer1 = torch.compile(network.layer1)
    network.layer2 = torch.nn.DataParallel(network.layer2)
    torch.save({"student": network.state_dict()}, path)
    _assert_same(_load(path), expected)
