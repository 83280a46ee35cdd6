"""Names of the networks that follow timm, and random images for them."""

import re

import numpy as np

from rrd_jax import networks
from rrd_jax.networks import convmixer, convnext, inverted, regnet, repvgg, vit

_RESNETS = ("resnet101", "resnet152", "resnet50_gn")
# The smallest network of each kind.
SMALLEST = (
    "resnet50_gn",
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "convnext_atto",
    "convnextv2_atto",
    "efficientnet_b0",
    "mobilenetv3_small_100",
    "mobilenetv4_conv_small",
    "mobilenet_v3_small",
    "regnety_002",
    "repvgg_a0",
)
# All networks of torchvision with a separate naming scheme.
TORCHVISION = (
    *("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32"),
    *("convnext_tiny", "convnext_small", "convnext_base", "convnext_large"),
    *(f"efficientnet_b{i}" for i in range(5)),
    *("efficientnet_v2_s", "mobilenet_v3_small", "mobilenet_v3_large"),
    *("regnet_y_400mf", "regnet_y_800mf", "regnet_y_1_6gf"),
)

# A small sample that covers all kinds of layers.
SAMPLE = (
    "deit_tiny_distilled_patch16_224",
    "convnextv2_atto",
    "mobilenetv3_small_100",
    "regnety_002",
)
# Networks with layers that the smallest ones lack, except efficientnetv2_s: with random weights it
# amplifies rounding errors, so that float32 and float64 of timm differ by a third.
OTHERS = (
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch32_clip_quickgelu_224",
    "vit_base_patch16_siglip_224",
    "deit3_small_patch16_224",
    "convnext_tiny",
    "efficientnet_lite0",
    "mobilenetv4_conv_medium",
    "convmixer_1024_20_ks9_p14",
)

# One older network of each kind; the remaining networks are deeper or wider.
KINDS = (
    *("resnet8", "resnet50_cifar", "wrn_16_1", "vgg8"),
    *("mobilenetv2_cifar", "shufflenetv1_cifar", "shufflenetv2_cifar"),
    *("resnet18", "resnet50", "resnext50_32x4d", "resnet10x2", "mobilenetv1", "mobilenetv2"),
)

# Towers of SigLIP 2 that SigLIP lacks, or of image sizes that it lacks.
_ADDED = r"base_patch32|siglip.*_512|large_patch16_siglip.*_384|_378|so400m_patch16|giantopt"
SIGLIP_2 = tuple(name for name in vit.IMAGENET if re.search(_ADDED, name) and "siglip" in name)


def older() -> list[str]:
    """Returns the names of the other networks, which distillation benchmarks use."""
    families = (name for family in networks.FAMILIES for name in family.networks)
    others = {*names(), *SIGLIP_2, *vit.CIFAR, *convmixer.CIFAR, *families}
    return [name for name in networks.MODELS if name not in others]


def names() -> list[str]:
    """Returns the names of networks from timm, or from torchvision with modules of timm.

    Networks of a `networks.Family` and SigLIP 2 are compared with timm itself, in tests/weights.
    """
    families = (vit, convnext, inverted, regnet, convmixer, repvgg)
    published = (name for family in families for name in family.IMAGENET)
    return [*_RESNETS, *(name for name in published if name not in SIGLIP_2)]


def patch(name: str) -> int:
    """Returns the patch size of a transformer in pixels; 0 for other networks."""
    match = re.search(r"_patch(\d+)", name)
    return int(match[1]) if match else 0


def side(name: str) -> int:
    """Returns the side of small images that the network accepts, in pixels."""
    return 4 * (patch(name) or 16)


def images(name: str) -> np.ndarray:
    """Returns two images of random pixels: float32 [2, side, side, 3]."""
    shape = (2, side(name), side(name), 3)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


assert set(names()) <= set(networks.MODELS)
