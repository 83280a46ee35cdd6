"""Networks with timm's names beside timm's own, installed: files, sizes of images, gradients."""

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

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")


def _to_torch(images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def _build(name, side):
    from tests.networks import timm_golden

    return timm_golden.build(name, side)


def _images(side, count=2):
    return np.random.default_rng(side).standard_normal((count, side, side, 3), np.float32)


def _compare(name, network, variables, images):
    outputs = jax.jit(networks.create(name, 10).apply)(variables, images)
    with torch.inference_mode():
        features = network.forward_features(_to_torch(images))
        embedding = network.forward_head(features, pre_logits=True)
        logits = network.forward_head(features)
    assert golden.relative(outputs.logits, logits.numpy()) < 1e-5
    assert golden.relative(outputs.embedding, embedding.numpy()) < 1e-5


_TIMM = [name for name in modern.SMALLEST if published.lookup(name).timm]


@pytest.mark.parametrize("name", _TIMM)
def test_a_file_of_timms_gives_its_numbers_at_two_sizes(name, tmp_path):
    side = modern.side(name)
    network, path = _build(name, side), tmp_path / "file.safetensors"
    importlib.import_module("safetensors.torch").save_file(network.state_dict(), path)
    variables, meta = files.load(path, name)
    assert meta["num_classes"] == 10
    _compare(name, network, variables, _images(side))
    other = side + side // 2
    if modern.patch(name):
        sized = timm.create_model(name, num_classes=10, img_size=other).eval()
        filtered = importlib.import_module("timm.models.vision_transformer").checkpoint_filter_fn
        sized.load_state_dict(filtered(network.state_dict(), sized))
        network = sized
    fitted = networks.fit_positions(variables, networks.create(name, 10), (other, other, 3))
    _compare(name, network, fitted, _images(other))
    back = to_torch(name, variables)
    for entry, value in importlib.import_module("safetensors.torch").load_file(path).items():
        np.testing.assert_array_equal(back[entry], value.numpy())


# Rounding flips ReLUs, so that PyTorch's own gradients in float32 are off in some of these.
@pytest.mark.parametrize("name", _TIMM)
def test_gradients_are_torchs(name):
    # Batch norms of small maps need as many; 7x7 in PyTorch's doubles take seconds an image.
    side, labels = modern.side(name), np.arange(2 if name.startswith("convnext") else 8)
    sized = {"img_size": side} if modern.patch(name) else {}
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=10, **sized).train()
    images = _images(side, len(labels))
    variables = from_torch(name, network.state_dict())

    def loss(params):
        given = {**variables, "params": params}
        outputs, _ = networks.create(name, 10).apply(
            given, images, train=True, mutable=["batch_stats"]
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels)
        return jnp.mean(losses)

    def theirs(network, images):
        value = torch.nn.functional.cross_entropy(network(images), torch.tensor(labels))
        value.backward()
        return value.item(), {n: p.grad.double().numpy() for n, p in network.named_parameters()}

    # In the ways of a CPU, which compile sooner and are beside a peer here.
    step = jax.jit(convolutions.fast(jax.value_and_grad(loss)))
    value, gradient = step(variables["params"])
    found = to_torch(name, {"params": gradient})
    exact, wanted = theirs(copy.deepcopy(network).double(), _to_torch(images).double())
    rounded = theirs(network, _to_torch(images))[1]
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in wanted.values())
    errors = {}
    for which, gradients in (("ours", found), ("theirs", rounded)):
        errors[which] = max(
            np.abs(gradients[entry] - leaf).max() / max(np.abs(leaf).max(), 1e-4 * largest)
            for entry, leaf in wanted.items()
        )
    assert errors["ours"] < max(1e-4, 3 * errors["theirs"])


@pytest.mark.parametrize("name", _TIMM)
def test_rates_of_drop_path_are_timms(name):
    if not hasattr(networks.create(name, 10), "drop_path"):
        pytest.skip("it leaves out no blocks")
    sized = {"img_size": modern.side(name)} if modern.patch(name) else {}
    theirs = timm.create_model(name, drop_path_rate=0.2, **sized)
    wanted = {n: getattr(m, "drop_prob", 0.0) for n, m in theirs.named_modules()}
    found = drop_path_test.rates(networks.create(name, 10, drop_path=0.2), modern.side(name))
    assert max(found.values()) > 0.15
    for path, rate in found.items():
        module = re.sub(r"_(\d+)(?=_|$|/)", r".\1", path).replace("/", ".")
        assert rate == pytest.approx(wanted[module]), path
