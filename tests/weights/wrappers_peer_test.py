"""Files as timm, transformers and PyTorch's own wrappers write them, read beside their readers."""

import numpy as np
import pytest

from rrd_jax import errors, networks
from rrd_jax.weights import files, to_torch
from tests import golden

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
        raw,
        parallel,
        {"model": raw},
        {"state_dict": {f"_orig_mod.{name}": value for name, value in raw.items()}},
        {"state_dict": raw, "state_dict_ema": average},
        {"state_dict": parallel, "state_dict_ema": average},
        {"model": raw, "model_ema": average},
        {"state_dict": raw, "model_ema": average},
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


def test_hugging_faces_resnet_computes_the_same(tmp_path):
    transformers = pytest.importorskip("transformers")
    options = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
    config = transformers.ResNetConfig(num_labels=10, **options)
    theirs = transformers.ResNetForImageClassification(config).eval()
    theirs.save_pretrained(tmp_path)
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(images)).logits.numpy()
    path = tmp_path / "model.safetensors"
    variables, _ = files.load(path, "resnet18")
    outputs = networks.create("resnet18", 10).apply(variables, golden.to_nhwc(images))
    assert golden.relative(outputs.logits, wanted) < 1e-5
    config.downsample_in_first_stage = True
    config.save_pretrained(tmp_path)
    with pytest.raises(errors.InputError, match="downsample_in_first_stage=True"):
        files.load(path, "resnet18")
