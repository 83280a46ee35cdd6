"""Networks by name.

To add a network, add an entry to the tables in the module of its family. To add a family, add a
module with a `family.Family`, which also holds the names of its entries in other libraries, and
include it in `FAMILIES`. Custom networks are given by import path or as objects.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import errors, functional, imports
from rrd_jax.networks import (
    aimv2,
    beit,
    convmixer,
    convnext,
    custom,
    dinov3,
    dinov3_convnext,
    edgenext,
    efficientvit,
    eva02,
    fastvit,
    inverted,
    mobilenet,
    mobileone,
    perception,
    radio,
    regnet,
    repvgg,
    repvit,
    resnet,
    shufflenet,
    swin,
    tinyvit,
    tips,
    variants,
    vgg,
    vit,
    wrn,
)
from rrd_jax.networks.check import check
from rrd_jax.networks.contract import Network, Outputs, mean_logits, network_variables
from rrd_jax.networks.custom import (
    CustomNetwork,
    adapt,
    from_equinox,
    from_functions,
    from_linen,
    from_nnx,
    is_network,
)
from rrd_jax.networks.family import Family
from rrd_jax.networks.freezing import freeze, frozen_parts
from rrd_jax.networks.gathering import gathered
from rrd_jax.networks.gradients import trained_outputs
from rrd_jax.networks.independence import check_independence
from rrd_jax.networks.positions import NAME as POSITIONS
from rrd_jax.networks.positions import WAYS as POSITION_WAYS
from rrd_jax.networks.positions import fit as fit_positions
from rrd_jax.networks.remat import remat
from rrd_jax.networks.stored import Stored
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

# Networks published for images of 32x32 pixels.
CIFAR: dict[str, Factory] = {
    **resnet.CIFAR,
    **wrn.CIFAR,
    **vgg.CIFAR,
    **mobilenet.CIFAR,
    **shufflenet.CIFAR,
    **vit.CIFAR,
    **convmixer.CIFAR,
}
# Families whose module also holds the names of entries in other libraries.
FAMILIES: tuple[Family, ...] = (
    dinov3.FAMILY,
    dinov3_convnext.FAMILY,
    tips.FAMILY,
    mobileone.FAMILY,
    repvit.FAMILY,
    fastvit.FAMILY,
    efficientvit.FAMILY,
    tinyvit.FAMILY,
    edgenext.FAMILY,
    aimv2.FAMILY,
    eva02.FAMILY,
    beit.FAMILY,
    perception.FAMILY,
    perception.SPATIAL,
    radio.FAMILY,
    swin.FAMILY,
    swin.SECOND,
)
# Networks published for ImageNet.
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
    **{name: make for family in FAMILIES for name, make in family.networks.items()},
}
# Image sizes of networks that were not published for 224 pixels.
_SIDES = {
    **inverted.SIDES,
    **vit.SIDES,
    **{n: f.sizes.get(n, f.image_size) for f in FAMILIES for n in f.networks},
}
# Contains also the variants of these networks, such as resnet8(widths=(8,16,32,64)).
MODELS = variants.Registry(CIFAR | IMAGENET)
# Names of the same networks in torchvision and, for mobilenetv2_100, in timm.
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
    """Creates a network by name, without weights.

    Args:
      name: a key of MODELS or ALIASES, or an import path MODULE:NAME; see
        `networks.custom.create`.
      num_classes: number of logits; 0 for no classifier (only networks of MODELS), with logits ().
      dtype: type of convolutions. Parameters, statistics, embedding and logits are always float32.
      space_to_depth: whether the first 7x7 convolution is computed on blocks of 2x2 pixels, with
        the same parameters; results differ by rounding.
      options: options of a network given by import path, or fields of a registered network such as
        width and depth; see `with_options`.
      prefix: prefix of the options' names in messages, such as "student.options.".
      drop_path: drop-path rate of the last block, in [0, 1); the rates of earlier blocks are
        proportional to their depth (arXiv 1603.09382).

    Returns:
      A Network for images [B, H, W, channels].

    Raises:
      InputError: the name or an option is unknown, num_classes is invalid, or the network does not
        support space_to_depth or drop_path.

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
        name = with_options(name, options or {}, prefix)
        network = factory(name)(num_classes=num_classes, dtype=dtype)
    check_drop_path(network, drop_path, name, prefix)
    if drop_path:
        network = network.clone(drop_path=drop_path)
    if not space_to_depth:
        return network
    if not getattr(network, "imagenet_stem", False):
        raise errors.InputError(
            f"space_to_depth is True, but '{name}' does not start with a 7x7 convolution; set it to"
            " False"
        )
    return network.clone(space_to_depth=True)


def check_drop_path(network: Network, rate: float, name: str, prefix: str = "") -> None:
    """Raises an InputError for a drop-path rate above 0 if the network does not support drop path.

    Args:
      network: the network.
      rate: the drop-path rate; see `create`.
      name: the network's name in messages.
      prefix: prefix of the options' names in messages, such as "student.options.".
    """
    if not rate or (isinstance(network, nn.Module) and hasattr(network, "drop_path")):
        return
    is_custom = isinstance(network, CustomNetwork)
    raise errors.InputError(
        f"{prefix.removesuffix('options.')}drop_path is {rate}, but '{name}' "
        + (
            "is a custom network; set it to 0 and implement drop path in the network"
            if is_custom
            else "does not support drop path; set it to 0 (supported: transformers, ConvNeXt,"
            " EdgeNeXt, EfficientNet, FastViT, TinyViT, MobileNetV3 and V4, and RegNetY)"
        )
    )


def canonical(name: str) -> str:
    """Returns the name in MODELS of an alias; returns any other name unchanged."""
    base, fields = variants.split(name)
    return with_options(ALIASES[base], fields) if base in ALIASES else name


def with_options(name: str, options: Mapping[str, Any], prefix: str = "") -> str:
    """Returns the name of a variant of a network, whose fields have the values of options.

    Args:
      name: a key of MODELS or ALIASES, or the name of a variant.
      options: values by field of the network's class, such as width, depth, heads, widths, blocks.
      prefix: prefix of the options' names in messages, such as "student.options.".

    Raises:
      InputError: the name is unknown, the network has no such field, or a value has another type.

    Examples:
      >>> with_options("vit_small_patch16_224", {"depth": 6, "width": 384})
      'vit_small_patch16_224(depth=6)'
    """
    if not options:
        return name
    name = canonical(name)
    return variants.join(name, options, factory(variants.split(name)[0]), prefix)


def aliases(name: str) -> list[str]:
    """Returns the aliases of a network of MODELS."""
    return [alias for alias, model in ALIASES.items() if model == name]


def factory(name: str) -> Factory:
    """Returns the factory of a name or alias; raises an InputError for an unknown name."""
    name = canonical(name)
    if name in MODELS:
        return MODELS[name]
    by_alias = {alias: MODELS[model] for alias, model in ALIASES.items() if model in MODELS}
    return errors.lookup("model", name, MODELS | by_alias)


def family_of(name: str) -> Family | None:
    """Returns the family of a name or alias; None for the families without a record."""
    network = factory(name)(num_classes=1)
    return next((family for family in FAMILIES if type(network) is family.network), None)


def image_size(name: str) -> int:
    """Returns the height and width of images for which the network `name` was published."""
    base = variants.split(canonical(name))[0]
    side = 32 if base in CIFAR else _SIDES.get(base, 224)
    # Variants can have patches of another size, and another number of them.
    window = _keyword(name, "window", side // patch(name))
    return window * patch(name) if patch(name) > 1 else side


def patch(name: str) -> int:
    """Returns the side of the network's patches in pixels; 1 for a network without patches."""
    return _keyword(name, "patch", 1)


def _keyword(name: str, keyword: str, default: int) -> int:
    """Returns a keyword of a network's factory."""
    name = canonical(name)
    return (
        getattr(MODELS[name], "keywords", {}).get(keyword, default) if name in MODELS else default
    )


def decay_groups(network: Network) -> tuple[str, tuple[str, ...]]:
    """Returns the layers of a network for layer decay that its parameters' paths do not tell.

    Returns:
      (pattern of its blocks, modules of its classifier), as `optim.block_scales` accepts them:
      attributes `decay_blocks` and `decay_head` of networks that timm groups in its own way.
    """
    return getattr(network, "decay_blocks", ""), tuple(getattr(network, "decay_head", ()))


def init(network: Network, key: jax.Array, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Returns random variables {"params", "batch_stats"} for images [H, W, channels]."""
    variables = network.init(key, jnp.zeros((1, *image_shape), jnp.float32), train=False)
    return {"batch_stats": {}, **variables}


def from_embedding(embedding: jax.Array, head: Any) -> Outputs:
    """Computes Outputs without maps from an embedding and a head.

    Args:
      embedding: [B, D], of any float type.
      head: {"kernel": [D, C], "bias": [C]}.
    """
    embedding = embedding.astype(jnp.float32)
    return Outputs(functional.linear(embedding, **head), embedding, head=head)


__all__ = [
    "ALIASES",
    "CIFAR",
    "FAMILIES",
    "IMAGENET",
    "MODELS",
    "POSITIONS",
    "POSITION_WAYS",
    "CustomNetwork",
    "Network",
    "Outputs",
    "Stored",
    "Summary",
    "adapt",
    "aliases",
    "canonical",
    "check",
    "check_drop_path",
    "check_independence",
    "check_values",
    "check_weights",
    "count_parameters",
    "create",
    "decay_groups",
    "describe_maps",
    "factory",
    "family_of",
    "fit_positions",
    "freeze",
    "from_embedding",
    "from_equinox",
    "from_functions",
    "from_linen",
    "from_nnx",
    "frozen_parts",
    "gathered",
    "head",
    "image_size",
    "init",
    "invalid_values",
    "is_network",
    "leaf_name",
    "mean_logits",
    "multiply_adds",
    "named_shapes",
    "network_variables",
    "patch",
    "remat",
    "summarize",
    "trained_outputs",
    "with_options",
]
