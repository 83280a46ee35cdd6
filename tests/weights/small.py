"""Small networks of published families, for tests of weight files."""

from functools import partial

import jax
import pytest

from rrd_jax import networks
from rrd_jax.networks import (
    aimv2,
    beit,
    convnext,
    dinov3,
    dinov3_convnext,
    edgenext,
    efficientvit,
    eva02,
    fastvit,
    mobileone,
    perception,
    radio,
    regnet,
    repvit,
    swin,
    tinyvit,
    tips,
    transformer,
    vit,
)

_SMALL = partial(vit.VisionTransformer, patch=8, width=32, depth=2, heads=2)
_DINOV3 = partial(dinov3.DinoV3, patch=8, width=32, depth=2, heads=2)
_PERCEPTION = partial(
    perception.PerceptionEncoder, patch=8, width=32, depth=2, heads=2, reference=4
)
_RADIO = partial(radio.Radio, patch=8, width=32, depth=2, heads=2, registers=3)
_SWIN = partial(swin.Swin, width=16, blocks=(1, 2), heads=(1, 2), window=4)
_GATED = {"gated": True, "activation": jax.nn.silu, "mlp": 5.5}
_REGISTERS = {"registers": 4, "patch_positions_only": True}
NETWORKS = {
    "small_vit": partial(_SMALL, mlp=2),
    "small_deit": partial(_SMALL, mlp=2, distilled=True),
    "small_dino": partial(_SMALL, scale=1e-5),
    "small_dino_giant": partial(_SMALL, scale=1e-5, **_GATED),
    "small_dino_reg": partial(_SMALL, scale=1e-5, **_REGISTERS),
    "small_clip": partial(_SMALL, mlp=2, norm_first=True, epsilon=1e-5),
    "small_clip_quickgelu": partial(
        _SMALL, mlp=2, norm_first=True, epsilon=1e-5, activation=transformer.quick_gelu
    ),
    "small_siglip": partial(_SMALL, mlp=2, pool="attention", activation=transformer.gelu_tanh),
    "small_convnext": partial(convnext.ConvNeXt, blocks=(1, 2), widths=(8, 16)),
    "small_convnextv2": partial(
        convnext.ConvNeXt, blocks=(1, 2), widths=(8, 16), second=True, as_convolutions=True
    ),
    "small_dinov3": _DINOV3,
    "small_dinov3_qkvb": partial(_DINOV3, bias=True),
    "small_dinov3_gated": partial(_DINOV3, bias=True, gated=True),
    "small_dinov3_convnext": partial(
        dinov3_convnext.DinoV3ConvNeXt, blocks=(1, 1, 2, 1), widths=(8, 16, 24, 32)
    ),
    "small_tips": partial(tips.Tips, patch=8, width=32, depth=2, heads=2),
    "small_tips_giant": partial(tips.Tips, patch=8, width=32, depth=2, heads=2, **_GATED),
    "small_aimv2": partial(aimv2.AimV2, patch=8, width=32, depth=2, heads=2),
    "small_eva02": partial(eva02.Eva02, patch=8, width=32, depth=2, heads=2, reference=4),
    "small_eva02_separate": partial(
        eva02.Eva02, patch=8, width=32, depth=2, heads=2, reference=4, separate=True
    ),
    "small_pe_core": partial(_PERCEPTION, mlp=3.0),
    "small_pe_spatial": partial(
        perception.PerceptionSpatial,
        **{**_PERCEPTION.keywords, "class_token": False, "offset": 0.0, "scale": 0.1},
    ),
    "small_radio": _RADIO,
    "small_radio_scaled": partial(_RADIO, scale=1e-5, aligned=True, registers=4),
    "small_beit": partial(beit.Beit, patch=8, width=32, depth=2, heads=2, window=4),
    "small_swin": _SWIN,
    "small_swinv2": partial(swin.SwinV2, **_SWIN.keywords, pretrained_windows=(3, 2)),
    "small_mobileone": partial(
        mobileone.MobileOne,
        **{"stem": 32, "widths": (32, 32), "blocks": (1, 1), "squeezed": (0, 1), "branches": 2},
    ),
    "small_repvit": partial(repvit.RepViT, widths=(16, 32), blocks=(1, 2)),
    "small_fastvit": partial(
        fastvit.FastViT,
        **{"widths": (32, 64), "blocks": (1, 1), "ratio": 2, "attention": True},
    ),
    "small_efficientvit_b": partial(
        efficientvit.EfficientViT,
        **{"widths": (8, 8, 16, 32), "blocks": (1, 2, 1, 1), "head": (32, 24), "head_width": 8},
    ),
    "small_efficientvit_l": partial(
        efficientvit.EfficientViT,
        **{"widths": (8, 8, 8, 8, 16), "blocks": (1, 1, 1, 1, 1), "head": (32, 24)},
        **{"head_width": 8, "large": True},
    ),
    "small_tinyvit": partial(
        tinyvit.TinyViT,
        **{"widths": (16, 24, 32), "blocks": (1, 1, 2), "heads": (2, 4), "windows": (3, 2)},
    ),
    "small_edgenext": partial(
        edgenext.EdgeNeXt, widths=(16, 24, 32, 44), blocks=(1, 2, 1, 1), heads=4
    ),
    "small_regnet": partial(regnet.RegNetY, depth=4, first=16, slope=12, factor=2.5, group=8),
}


@pytest.fixture
def small_networks(monkeypatch):
    """The registry with the small networks added."""
    for name, create in NETWORKS.items():
        monkeypatch.setitem(networks.MODELS, name, create)
