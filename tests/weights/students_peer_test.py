"""Small students compared with timm: outputs, gradients, folding, initial values and entries."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, networks
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

_SHAPES = ((32, 32), (32, 80), (48, 40))
# Sizes that differ in more than widths and depths.
_SIZES = (
    *("mobileone_s0", "mobileone_s4", "repvit_m0_9", "fastvit_t8", "fastvit_sa12"),
    *("efficientvit_b0", "efficientvit_b2", "efficientvit_l1", "efficientvit_l3"),
    *("tiny_vit_5m_224", "tiny_vit_11m_224", "tiny_vit_21m_384", "tiny_vit_21m_512"),
    *("edgenext_xx_small", "edgenext_base"),
)
_NARROW = [name for name in inverted.IMAGENET if name.endswith(("_050", "_075"))]


def _mobileone():
    blocks = timm.models.byobnet._mobileone_bcfg(
        d=(1, 1), wf=(0.5, 0.25), se_blocks=(0, 1), num_conv_branches=2
    )
    config = timm.models.byobnet.ByoModelCfg(blocks, stem_type="one", stem_chs=32)
    return timm.models.ByobNet(config, num_classes=5)


def _repvit():
    return timm.models.RepVit(embed_dim=(16, 32), depth=(1, 2), num_classes=5)


def _fastvit():
    position = partial(timm.models.fastvit.RepConditionalPosEnc, spatial_shape=(7, 7))
    return timm.models.FastVit(
        layers=(1, 1),
        embed_dims=(32, 64),
        mlp_ratios=(2, 2),
        pos_embs=(None, position),
        token_mixers=("repmixer", "attention"),
        num_classes=5,
    )


def _efficientvit(network, widths, depths):
    sizes = {"widths": widths, "depths": depths, "head_widths": (32, 24), "head_dim": 8}
    return network(**sizes, num_classes=5)


def _tinyvit():
    return timm.models.TinyVit(
        embed_dims=(16, 24, 32),
        depths=(1, 1, 2),
        num_heads=(1, 2, 4),
        window_sizes=(1, 3, 2),
        drop_path_rate=0.0,
        num_classes=5,
    )


def _edgenext():
    sizes = {"dims": (16, 24, 32, 44), "depths": (1, 2, 1, 1), "heads": (4, 4, 4, 4)}
    return timm.models.EdgeNeXt(**sizes, num_classes=5)


# timm's networks of the same sizes as ours, which are in `small.NETWORKS`.
_PEERS = {
    "small_mobileone": _mobileone,
    "small_repvit": _repvit,
    "small_fastvit": _fastvit,
    "small_efficientvit_b": partial(
        _efficientvit, timm.models.EfficientVit, (8, 8, 16, 32), (1, 2, 1, 1)
    ),
    "small_efficientvit_l": partial(
        _efficientvit, timm.models.EfficientVitLarge, (8, 8, 8, 8, 16), (1, 1, 1, 1, 1)
    ),
    "small_tinyvit": _tinyvit,
    "small_edgenext": _edgenext,
}


@pytest.mark.parametrize("name", _PEERS)
def test_outputs_and_entries_equal_timm(name):
    peer = peers.randomize(_PEERS[name]())
    variables = from_torch(name, peer.state_dict())
    peers.assert_equal_entries(to_torch(name, variables), peer.state_dict())

    def outputs(images):
        features = peer.forward_features(images)
        maps = peer.forward_intermediates(images, intermediates_only=True)
        return {
            "logits": peer(images),
            "embedding": peer.forward_head(features, pre_logits=True),
            "patches": features,
            "maps": maps,
        }

    for shape in _SHAPES:
        peers.compare(name, variables, shape, outputs, 5)
    if not variables["batch_stats"]:
        return
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


@pytest.mark.parametrize("name", _PEERS)
def test_files_without_a_classifier_are_read(name):
    peer = _PEERS[name]()
    peer.reset_classifier(0)
    entries = peers.randomize(peer).state_dict()
    # The prefix of timm's networks in transformers.
    wrapped = {f"timm_model.{entry}": value for entry, value in entries.items()}
    variables = from_torch(name, wrapped, headless=True)
    peers.assert_equal_entries(to_torch(name, variables), entries)
    with pytest.raises(errors.InputError, match=r"its classifier .* is missing"):
        from_torch(name, wrapped)
    if name == "small_repvit":
        peers.compare(name, variables, (32, 32), lambda images: {"embedding": peer(images)})


@pytest.mark.parametrize("name", _PEERS)
def test_gradients_and_statistics_equal_timm(name):
    peer, images = peers.randomize(_PEERS[name]()), peers.images((64, 48), 4)
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


@pytest.mark.parametrize("name", _PEERS)
def test_initial_values_are_distributed_as_in_timm(name):
    torch.manual_seed(0)
    network, expected = networks.create(name, 5), _PEERS[name]().state_dict()
    init = jax.jit(partial(networks.init, network, image_shape=(32, 32, 3)))
    for entry, actual in to_torch(name, init(jax.random.key(0))).items():
        value, count = expected[entry].double().numpy(), actual.size
        if not value.std():
            np.testing.assert_allclose(actual, value, rtol=1e-6, err_msg=entry)
            continue
        assert abs(actual.mean() - value.mean()) < 6 * value.std() / count**0.5, entry
        assert abs(np.log(actual.std() / value.std())) < 4 / count**0.5, entry


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
