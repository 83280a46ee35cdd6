"""Networks compared with timm: files, image sizes, gradients and drop path."""

import copy
import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rrd_jax import networks
from rrd_jax.cpu import convolutions
from rrd_jax.weights import files, from_torch, published, to_torch
from tests import golden
from tests.networks import drop_path_test, modern
from tests.weights import peers

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")


def _build(name, side):
    from tests.networks import timm_golden

    return timm_golden.build(name, side)


def _images(side, count=2):
    return np.random.default_rng(side).standard_normal((count, side, side, 3), np.float32)


def _compare(name, network, variables, images):
    outputs = jax.jit(networks.create(name, 10).apply)(variables, images)
    with torch.inference_mode():
        features = network.forward_features(peers.to_torch(images))
        embedding = network.forward_head(features, pre_logits=True)
        logits = network.forward_head(features)
    assert golden.relative(outputs.logits, logits.numpy()) < 1e-5
    assert golden.relative(outputs.embedding, embedding.numpy()) < 1e-5
    if modern.patch(name):
        features = features[:, network.num_prefix_tokens :]
        features = features.reshape(outputs.patches.shape)
    else:
        features = features.permute(0, 2, 3, 1)
    assert golden.relative(outputs.patches, features.numpy()) < 1e-5


_TIMM = [name for name in modern.SMALLEST if published.lookup(name).timm]


@pytest.mark.parametrize("name", _TIMM)
def test_files_and_outputs_at_another_image_size_equal_timm(name, tmp_path):
    side = modern.side(name)
    network, path = _build(name, side), tmp_path / "file.safetensors"
    importlib.import_module("safetensors.torch").save_file(network.state_dict(), path)
    variables, meta = files.load(path, name)
    assert meta["num_classes"] == 10
    # The stored numbers of tests/networks/modern_test.py are for the size of the file.
    other = side + side // 2
    if modern.patch(name):
        sized = timm.create_model(name, num_classes=10, img_size=other).eval()
        filtered = importlib.import_module("timm.models.vision_transformer").checkpoint_filter_fn
        sized.load_state_dict(filtered(network.state_dict(), sized))
        network = sized
    fitted = networks.fit_positions(variables, networks.create(name, 10), (other, other, 3))
    _compare(name, network, fitted, _images(other))
    restored = to_torch(name, variables)
    for entry, value in importlib.import_module("safetensors.torch").load_file(path).items():
        np.testing.assert_array_equal(restored[entry], value.numpy())


# Rounding flips ReLUs, so float32 gradients of PyTorch are also inaccurate for some networks.
# PyTorch takes half a minute for the grouped convolutions of RegNets with float64.
@pytest.mark.parametrize("name", [name for name in modern.SAMPLE if "regnet" not in name])
def test_gradients_equal_pytorch(name):
    # Batch norms of small maps need 8 images. ConvNeXt uses 2, because its 7x7 convolutions take
    # seconds per image in PyTorch with float64.
    side, labels = modern.side(name), np.arange(2 if name.startswith("convnext") else 8)
    sized = {"img_size": side} if modern.patch(name) else {}
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=10, **sized).train()
    images = _images(side, len(labels))
    variables = from_torch(name, network.state_dict())

    def loss(params):
        outputs, _ = networks.create(name, 10).apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels)
        return jnp.mean(losses)

    def peer_gradient(network, images):
        value = torch.nn.functional.cross_entropy(network(images), torch.tensor(labels))
        value.backward()
        return value.item(), {n: p.grad.double().numpy() for n, p in network.named_parameters()}

    # Fast convolutions compile faster, and this test compares them with PyTorch.
    step = jax.jit(convolutions.fast(jax.value_and_grad(loss)))
    value, gradient = step(variables["params"])
    actual = to_torch(name, {"params": gradient})
    exact, expected = peer_gradient(
        copy.deepcopy(network).double(), peers.to_torch(images).double()
    )
    rounded = peer_gradient(network, peers.to_torch(images))[1]
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in expected.values())
    errors = {}
    for library, gradients in (("rrd_jax", actual), ("torch", rounded)):
        errors[library] = max(
            np.abs(gradients[entry] - leaf).max() / max(np.abs(leaf).max(), 1e-4 * largest)
            for entry, leaf in expected.items()
        )
    assert errors["rrd_jax"] < max(1e-4, 3 * errors["torch"])


@pytest.mark.parametrize("name", [*_TIMM, "fastvit_t8", "tiny_vit_5m_224", "edgenext_xx_small"])
def test_drop_path_rates_equal_timm(name):
    if not hasattr(networks.create(name, 10), "drop_path"):
        pytest.skip("the network has no drop path")
    sized = {"img_size": modern.side(name)} if modern.patch(name) else {}
    peer = timm.create_model(name, drop_path_rate=0.2, **sized)
    expected = {n: getattr(m, "drop_prob", 0.0) for n, m in peer.named_modules()}
    actual = drop_path_test.rates(networks.create(name, 10, drop_path=0.2), modern.side(name))
    assert max(actual.values()) > 0.15
    for path, rate in actual.items():
        module = re.sub(r"_(\d+)(?=_|$|/)", r".\1", path).replace("/", ".")
        assert rate == pytest.approx(expected[module]), path
