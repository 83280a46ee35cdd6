"""The networks, by name.

A new network is a line in `CIFAR` or `IMAGENET` of its family's file. A new family is a file with
such tables, and its name in the tables here. A user's network comes by import path or as an object.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import errors, functional, imports
from rrd_jax.networks import (
    convmixer,
    convnext,
    custom,
    inverted,
    mobilenet,
    regnet,
    repvgg,
    resnet,
    shufflenet,
    vgg,
    vit,
    wrn,
)
from rrd_jax.networks.check import check
from rrd_jax.networks.contract import Network, Outputs
from rrd_jax.networks.custom import (
    CustomNetwork,
    adapt,
    from_equinox,
    from_functions,
    from_linen,
    from_nnx,
    is_network,
)
from rrd_jax.networks.freezing import freeze, frozen_parts
from rrd_jax.networks.positions import NAME as POSITIONS
from rrd_jax.networks.positions import fit as fit_positions
from rrd_jax.networks.remat import remat
from rrd_jax.networks.summary import (
    Summary,
    count_parameters,
    describe_maps,
    head,
    leaf_name,
    multiply_adds,
    named_shapes,
    summarize,
)
from rrd_jax.networks.weight_checks import check_values, check_weights, invalid_values

Factory = Callable[..., nn.Module]

# Published for images of 32 pixels.
CIFAR: dict[str, Factory] = {
    **resnet.CIFAR,
    **wrn.CIFAR,
    **vgg.CIFAR,
    **mobilenet.CIFAR,
    **shufflenet.CIFAR,
    **vit.CIFAR,
    **convmixer.CIFAR,
}
# Published for images of ImageNet.
IMAGENET: dict[str, Factory] = {
    **resnet.IMAGENET,
    **mobilenet.IMAGENET,
    **shufflenet.IMAGENET,
    **convnext.IMAGENET,
    **inverted.IMAGENET,
    **regnet.IMAGENET,
    **repvgg.IMAGENET,
    **vit.IMAGENET,
    **convmixer.IMAGENET,
}
# Pixels of a side of these, where it is not 224.
_SIDES = {**inverted.SIDES, **vit.SIDES}
MODELS = CIFAR | IMAGENET
# What other libraries call networks that compute the same: torchvision, and timm the last one.
ALIASES = {
    **{
        f"vit_{size[0]}_{patch}": f"vit_{size}_patch{patch}_224"
        for size in ("base", "large")
        for patch in (16, 32)
    },
    "regnet_y_400mf": "regnety_004",
    "regnet_y_800mf": "regnety_008_tv",
    "regnet_y_1_6gf": "regnety_016",
    "mobilenet_v2": "mobilenetv2",
    "shufflenet_v2_x1_0": "shufflenetv2_x1_0",
    "mobilenetv2_100": "mobilenetv2",
}


def create(
    name: str,
    num_classes: int,
    *,
    dtype: jnp.dtype = jnp.float32,
    space_to_depth: bool = False,
    options: Mapping[str, Any] | None = None,
    prefix: str = "",
    drop_path: float = 0.0,
) -> Network:
    """The network of that name, without weights.

    Args:
      name: a key of MODELS or ALIASES, or an import path MODULE:NAME; see
        `networks.custom.create`.
      num_classes: number of logits; 0 for one of MODELS without a classifier, whose logits are ().
      dtype: what convolutions compute in. Parameters, statistics, embedding and logits are always
        float32.
      space_to_depth: whether the 7x7 convolution on images is computed as one on squares of 2x2
        pixels; the same parameters give the same results, but for rounding.
      options: of a network by import path.
      prefix: of their names in messages, such as "student.options.".
      drop_path: share of images, in [0, 1), for which the last block is left out in training; of
        the others in proportion to their place (arXiv 1603.09382).

    Returns:
      A Network for images [B, H, W, channels].

    Raises:
      InputError: the name or an option is unknown, num_classes is no count, there is no 7x7
        convolution to compute from space to depth, or the network leaves out no blocks.

    Examples:
      >>> network = create("resnet8", num_classes=10)
      >>> variables = init(network, jax.random.key(0), (32, 32, 3))
      >>> network.apply(variables, jnp.zeros((2, 32, 32, 3))).embedding.shape
      (2, 64)
    """
    if num_classes != 0 or imports.is_path(name):
        errors.check_counts(num_classes=num_classes)
    if imports.is_path(name):
        network = custom.create(name, num_classes, dtype, options or {}, prefix)
    else:
        network = factory(name)(num_classes=num_classes, dtype=dtype)
        imports.check(f"network '{name}'", lambda: None, options or {}, prefix=prefix)
    check_drop_path(network, drop_path, name, prefix)
    if drop_path:
        network = network.clone(drop_path=drop_path)
    if not space_to_depth:
        return network
    if not getattr(network, "imagenet_stem", False):
        raise errors.InputError(
            f"space_to_depth is for networks that start with a 7x7 convolution, not for '{name}'"
        )
    return network.clone(space_to_depth=True)


def check_drop_path(network: Network, rate: float, name: str, prefix: str = "") -> None:
    """Raises an InputError for a rate above 0 of a network of ours that leaves out no blocks.

    Args:
      network: as it is made.
      rate: as `create` has it.
      name: of the network.
      prefix: of its options in messages, such as "student.options.".
    """
    if not rate or (isinstance(network, nn.Module) and hasattr(network, "drop_path")):
        return
    is_custom = isinstance(network, CustomNetwork)
    raise errors.InputError(
        f"{prefix.removesuffix('options.')}drop_path is {rate}, but '{name}' "
        + (
            "is a network of your own, which leaves out blocks by itself: set it to 0"
            if is_custom
            else "leaves out no blocks; transformers, ConvNeXt, EfficientNet, MobileNetV3 and V4,"
            " and RegNetY do: set it to 0"
        )
    )


def canonical(name: str) -> str:
    """The name of MODELS for one of ALIASES; any other as it is."""
    return ALIASES.get(name, name)


def aliases(name: str) -> list[str]:
    """The other names of a network of MODELS."""
    return [alias for alias, ours in ALIASES.items() if ours == name]


def factory(name: str) -> Factory:
    """What makes the network of a name or alias; raises an InputError for any other name."""
    others = {alias: MODELS[ours] for alias, ours in ALIASES.items() if ours in MODELS}
    return errors.lookup("model", name, MODELS | others)


def image_size(name: str) -> int:
    """Height and width of the images that network `name` was published for."""
    name = canonical(name)
    return 32 if name in CIFAR else _SIDES.get(name, 224)


def patch(name: str) -> int:
    """Pixels of a side of the squares that network `name` cuts images into; 1 for none."""
    return getattr(MODELS.get(canonical(name)), "keywords", {}).get("patch", 1)


def init(network: Network, key: jax.Array, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Fresh variables {"params", "batch_stats"} for images of [H, W, channels]."""
    variables = network.init(key, jnp.zeros((1, *image_shape), jnp.float32), train=False)
    return {"batch_stats": {}, **variables}


def from_embedding(embedding: jax.Array, head: Any) -> Outputs:
    """The Outputs, without maps, of a network with this head that computed this embedding.

    Args:
      embedding: [B, D], of any float type.
      head: {"kernel": [D, C], "bias": [C]}.
    """
    embedding = embedding.astype(jnp.float32)
    return Outputs(functional.linear(embedding, **head), embedding, head=head)


__all__ = [
    "ALIASES",
    "CIFAR",
    "IMAGENET",
    "MODELS",
    "POSITIONS",
    "CustomNetwork",
    "Network",
    "Outputs",
    "Summary",
    "adapt",
    "aliases",
    "canonical",
    "check",
    "check_drop_path",
    "check_values",
    "check_weights",
    "count_parameters",
    "create",
    "describe_maps",
    "factory",
    "fit_positions",
    "freeze",
    "from_embedding",
    "from_equinox",
    "from_functions",
    "from_linen",
    "from_nnx",
    "frozen_parts",
    "head",
    "image_size",
    "init",
    "invalid_values",
    "is_network",
    "leaf_name",
    "multiply_adds",
    "named_shapes",
    "patch",
    "remat",
    "summarize",
]
