"""The networks that have timm's names and modules: which, and images to look at them with."""

import re

import numpy as np

from rrd_jax import networks
from rrd_jax.networks import convnext, inverted, regnet, vit

_RESNETS = ("resnet101", "resnet152", "resnet50_gn")
# The smallest of each kind.
SMALLEST = (
    "resnet50_gn",
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "convnext_atto",
    "convnextv2_atto",
    "efficientnet_b0",
    "mobilenetv3_small_100",
    "mobilenetv4_conv_small",
    "regnety_002",
)

# Some of these that have all their kinds of layers: for what treats all networks alike.
FEW = (
    "deit_tiny_distilled_patch16_224",
    "convnextv2_atto",
    "mobilenetv3_small_100",
    "regnety_002",
)
# One more of each kind. Not efficientnetv2_s: with such weights it magnifies rounding, so that
# timm's own float32 is off by a third of its float64.
OTHERS = (
    "resnet101",
    "vit_small_patch32_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch32_clip_quickgelu_224",
    "vit_base_patch16_siglip_224",
    "deit3_small_patch16_224",
    "convnext_tiny",
    "convnextv2_tiny",
    "efficientnet_b4",
    "efficientnet_lite0",
    "mobilenetv3_large_100",
    "mobilenetv4_conv_medium",
    "regnety_016",
)


def older() -> list[str]:
    """The other networks, those of the field's benchmarks."""
    return [name for name in networks.MODELS if name not in names() and name not in vit.CIFAR]


def names() -> list[str]:
    """Of all networks that are timm's."""
    families = (vit, convnext, inverted, regnet)
    return [*_RESNETS, *(name for family in families for name in family.IMAGENET)]


def patch(name: str) -> int:
    """Pixels of the side of a transformer's squares; 0 for other networks."""
    found = re.search(r"_patch(\d+)", name)
    return int(found[1]) if found else 0


def side(name: str) -> int:
    """Of small images that the network takes."""
    return 4 * (patch(name) or 16)


def images(name: str) -> np.ndarray:
    """Two of random pixels, [2, side, side, 3]."""
    shape = (2, side(name), side(name), 3)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


assert set(names()) <= set(networks.MODELS)
