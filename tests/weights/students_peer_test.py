"""Networks with merged branches compared with timm: outputs, gradients, folding and entries."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import networks
from rrd_jax.cpu import convolutions
from rrd_jax.networks import inverted
from rrd_jax.teacher import fold
from rrd_jax.weights import entry_templates, from_torch, published, to_torch
from tests import golden
from tests.weights import peers
from tests.weights.small import small_networks

pytestmark = pytest.mark.usefixtures("small_networks")
__all__ = ["small_networks"]
torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

_SHAPES = ((32, 32), (48, 48), (32, 80))
# Sizes that differ in more than widths and depths.
_SIZES = ("mobileone_s0", "mobileone_s4", "repvit_m0_9", "fastvit_t8", "fastvit_sa12")
_NARROW = [name for name in inverted.IMAGENET if name.endswith(("_050", "_075"))]


def _build(name, num_classes=5):
    """Returns timm's network with random weights."""
    if name == "small_mobileone":
        blocks = timm.models.byobnet._mobileone_bcfg(
            d=(1, 1), wf=(0.5, 0.25), se_blocks=(0, 1), num_conv_branches=2
        )
        config = timm.models.byobnet.ByoModelCfg(blocks, stem_type="one", stem_chs=32)
        return peers.randomize(timm.models.ByobNet(config, num_classes=num_classes))
    if name == "small_repvit":
        peer = timm.models.RepVit(embed_dim=(16, 32), depth=(1, 2), num_classes=num_classes)
        return peers.randomize(peer)
    position = partial(timm.models.fastvit.RepConditionalPosEnc, spatial_shape=(7, 7))
    peer = timm.models.FastVit(
        layers=(1, 1),
        embed_dims=(32, 64),
        mlp_ratios=(2, 2),
        pos_embs=(None, position),
        token_mixers=("repmixer", "attention"),
        num_classes=num_classes,
    )
    return peers.randomize(peer)


@pytest.mark.parametrize("name", ["small_mobileone", "small_repvit", "small_fastvit"])
def test_outputs_and_entries_equal_timm(name):
    peer = _build(name)
    variables = from_torch(name, peer.state_dict())
    peers.assert_equal_entries(to_torch(name, variables), peer.state_dict())

    def outputs(images):
        features = peer.forward_features(images)
        maps = peer.forward_intermediates(images, intermediates_only=True)
        return {
            "logits": peer(images),
            "embedding": peer.forward_head(features, pre_logits=True),
            "patches": features,
            "maps": maps[-2:],
        }

    for shape in _SHAPES:
        peers.compare(name, variables, shape, outputs, 5)
    network, images = networks.create(name, 5), peers.images((32, 32))
    folded = fold.fold(network, variables, (32, 32, 3))
    assert networks.count_parameters(folded["params"]) < networks.count_parameters(
        variables["params"]
    )
    merged = jax.jit(network.apply)(folded, images)
    with torch.inference_mode():
        assert golden.relative(merged.logits, peer(peers.to_torch(images)).numpy()) < 1e-5


def _prepare(peer, images):
    """Prepares a network for training, with gradients that rounding errors do not dominate.

    A kernel of one small weight before a batch norm has a large gradient of rounding errors. The
    variance loses digits if the running mean is far from the mean of the images.
    """
    for value in peer.train().parameters():
        if value.ndim == 4 and value[0].numel() == 1:
            value.data = value.sign() * (0.5 + value.abs())
    norms = [m for m in peer.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for momentum in (1.0, 0.1):
        for norm in norms:
            norm.momentum = momentum
        if momentum == 1:
            peer(images)


@pytest.mark.parametrize("name", ["small_mobileone", "small_repvit", "small_fastvit"])
def test_gradients_and_statistics_equal_timm(name):
    peer, images = _build(name), peers.images((32, 48), 4)
    _prepare(peer, peers.to_torch(images))
    variables, network = from_torch(name, peer.state_dict()), networks.create(name, 5)

    def loss(params):
        outputs, state = network.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.mean(outputs.logits**2) + jnp.mean(outputs.patches**2), state

    # Fast convolutions compile faster.
    step = jax.jit(convolutions.fast(jax.value_and_grad(loss, has_aux=True)))
    (value, state), gradient = step(variables["params"])
    peer = peer.double()
    features = peer.forward_features(peers.to_torch(images).double())
    expected = peer.forward_head(features).square().mean() + features.square().mean()
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    peers.assert_equal_gradients(to_torch(name, {"params": gradient}), peer)
    statistics, after = to_torch(name, state), peer.state_dict()
    for entry in (entry for entry in after if entry.endswith(("running_mean", "running_var"))):
        assert golden.relative(statistics[entry], after[entry].numpy()) < 1e-5, entry


@pytest.mark.parametrize("name", [*_SIZES, *_NARROW])
def test_entries_of_all_sizes_equal_timm(name):
    sizes = {"num_classes": entry_templates.CLASSES, "in_chans": entry_templates.CHANNELS}
    with torch.device("meta"):
        peer = timm.create_model(published.lookup(name).timm, **sizes)
    expected = {
        entry: tuple(value.shape)
        for entry, value in peer.state_dict().items()
        if not entry.endswith("num_batches_tracked")
    }
    assert {n: entry.shape for n, entry in entry_templates.template(name).items()} == expected
    assert networks.image_size(name) == peer.default_cfg["input_size"][-1]
