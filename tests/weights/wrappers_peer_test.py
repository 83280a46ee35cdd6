"""Files as timm, transformers and PyTorch's own wrappers write them, read beside their readers."""

import numpy as np
import pytest

from rrd_jax.weights import files, to_torch

torch = pytest.importorskip("torch")


def _taken(path, name="resnet18"):
    return to_torch(name, files.load(path, name)[0])


def _assert_same(taken, wanted):
    for name, value in wanted.items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(taken[name], value.numpy())


def test_timm_would_take_the_same_of_each_file(tmp_path):
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
        _assert_same(_taken(path), timm.models.load_state_dict(str(path), use_ema=True))


def test_what_wraps_a_module_is_taken_off(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    network = torchvision.models.resnet18(weights=None, num_classes=10)
    path, wanted = tmp_path / "t.pth", network.state_dict()
    averaged = torch.optim.swa_utils.AveragedModel(network)
    averaged.update_parameters(network)
    for wrapped in (
        averaged,
        torch.nn.DataParallel(network),
        torch.compile(network),
        torch.compile(torch.nn.DataParallel(network)),
    ):
        torch.save(wrapped.state_dict(), path)
        _assert_same(_taken(path), wanted)
    network.layer1 = torch.compile(network.layer1)
    network.layer2 = torch.nn.DataParallel(network.layer2)
    torch.save({"student": network.state_dict()}, path)
    _assert_same(_taken(path), wanted)
