"""Position embeddings of DINOv2 at other sizes, compared with its authors and transformers."""

import numpy as np
import pytest

from rrd_jax import networks
from rrd_jax.networks import positions

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

_SIDE, _WIDTH = 37, 384
_EMBEDDINGS = np.random.default_rng(0).standard_normal((1, 1 + _SIDE**2, _WIDTH), np.float32)


def _fit(name, height, width, *way):
    network = networks.create(name, 0)
    # The registers and the class token of networks with registers have no positions.
    stored = _EMBEDDINGS[:, 1:] if "reg4" in name else _EMBEDDINGS
    variables = {"params": {"pos_embed": stored}}
    fitted = positions.fit(variables, network, (height, width, 3), *way)
    return np.asarray(fitted["params"]["pos_embed"])


def _authors(height, width, offset, antialias):
    """Resamples as DINOv2's authors: by a scale with an offset, or to a size without one."""
    patches = torch.from_numpy(_EMBEDDINGS[:, 1:]).reshape(1, _SIDE, _SIDE, -1).permute(0, 3, 1, 2)
    grid = height // 14, width // 14
    how = {"size": grid}
    if offset:
        how = {"scale_factor": tuple((count + offset) / _SIDE for count in grid)}
    resampled = torch.nn.functional.interpolate(patches, **how, mode="bicubic", antialias=antialias)
    return resampled.permute(0, 2, 3, 1).reshape(1, -1, _WIDTH).numpy()


@pytest.mark.parametrize(("height", "width"), [(224, 224), (98, 140), (700, 560)])
def test_positions_equal_the_authors_with_and_without_registers(height, width):
    plain = _fit("vit_small_patch14_dinov2", height, width)
    np.testing.assert_array_equal(plain[:, :1], _EMBEDDINGS[:, :1])
    expected = _authors(height, width, offset=0.1, antialias=False)
    np.testing.assert_allclose(plain[:, 1:], expected, atol=5e-5)
    registers = _fit("vit_small_patch14_reg4_dinov2", height, width)
    expected = _authors(height, width, offset=0.0, antialias=True)
    np.testing.assert_allclose(registers, expected, atol=5e-5)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (98, 140)])
def test_positions_equal_transformers_on_demand(height, width):
    module = pytest.importorskip("transformers.models.dinov2.modeling_dinov2")
    config = transformers.Dinov2Config(
        hidden_size=_WIDTH, num_attention_heads=6, image_size=14 * _SIDE, patch_size=14
    )
    peer = module.Dinov2Embeddings(config)
    peer.position_embeddings.data = torch.from_numpy(_EMBEDDINGS)
    count = 1 + (height // 14) * (width // 14)
    with torch.inference_mode():
        expected = peer.interpolate_pos_encoding(
            torch.zeros(1, count, _WIDTH), height, width
        ).numpy()
    actual = _fit("vit_small_patch14_dinov2", height, width, "transformers")
    np.testing.assert_allclose(actual, expected, atol=5e-5)
    assert np.abs(_fit("vit_small_patch14_dinov2", height, width) - expected).max() > 0.1
