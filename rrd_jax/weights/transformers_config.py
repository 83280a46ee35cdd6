"""Finds the network that a config.json of transformers describes."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from rrd_jax import errors, networks
from rrd_jax.networks import convnext, mobilenet, regnet, resnet, transformer, vit
from rrd_jax.networks.family import (
    Config,
    Kind,
    dino_hidden,
    picked,
    transformer_fields,
    transformer_sizes,
)
from rrd_jax.weights import entry_templates

_ACTIVATIONS = {
    "gelu": transformer.gelu,
    "quick_gelu": transformer.quick_gelu,
    "gelu_pytorch_tanh": transformer.gelu_tanh,
}


_WIDE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "patch_size": 16,
}


_TRANSFORMER = picked(*_WIDE, "hidden_act")


def _dino_sizes(config: Config) -> dict[str, Any]:
    gated, hidden = config["use_swiglu_ffn"], dino_hidden(config)
    activation = "silu" if gated else config["hidden_act"]
    registers = config.get("num_register_tokens", 0)
    sizes = _TRANSFORMER({**config, "intermediate_size": hidden, "hidden_act": activation})
    return sizes | {"use_swiglu_ffn": gated, "num_register_tokens": registers}


def _transformer(
    *, pool: str = "token", clip: bool = False, distilled: bool = False, dino: bool = False
) -> Callable[[vit.VisionTransformer], dict[str, Any] | None]:
    """Returns `Kind.network_sizes` for transformers with the given properties."""

    def network_sizes(network: vit.VisionTransformer) -> dict[str, Any] | None:
        kind = (network.pool, network.norm_first, network.distilled, bool(network.scale))
        if kind != (pool, clip, distilled, dino):
            return None
        if network.patch_positions_only != bool(network.registers):
            return None
        names = {function: name for name, function in _ACTIVATIONS.items()}
        activation = names.get(network.activation, "silu")
        sizes = transformer_sizes(network) | {"hidden_act": activation}
        if not dino:
            return None if network.gated or network.registers else sizes
        more = {"use_swiglu_ffn": network.gated, "num_register_tokens": network.registers}
        return sizes | more

    return network_sizes


def _convnext(second: bool) -> Callable[[convnext.ConvNeXt], dict[str, Any] | None]:
    def sizes(network: convnext.ConvNeXt) -> dict[str, Any] | None:
        if network.second != second:
            return None
        return {"hidden_sizes": network.widths, "depths": network.blocks}

    return sizes


def _regnet(network: regnet.RegNetY) -> dict[str, Any]:
    widths, depths = zip(*network.stages(), strict=True)
    return {"hidden_sizes": widths, "depths": depths, "groups_width": network.group}


def _resnet(network: resnet.ResNet) -> dict[str, Any] | None:
    plain = network.imagenet_stem and (network.inner, network.groups) == (1, 1)
    if not plain or network.norm_groups:
        return None
    wider = 4 if network.bottleneck else 1
    return {
        "embedding_size": network.widths[0],
        "hidden_sizes": tuple(wider * width for width in network.widths[1:]),
        "depths": network.blocks,
        "layer_type": "bottleneck" if network.bottleneck else "basic",
    }


def _mobilenet(network: mobilenet.MobileNetV2) -> dict[str, Any] | None:
    return {"depth_multiplier": 1.0} if network.torchvision else None


_PLAIN = {**_WIDE, "hidden_act": "gelu", "layer_norm_eps": 1e-12}
_WITH_BIAS = {"qkv_bias": True}
_DINO = {**_WIDE, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "mlp_ratio": 4}
_CONVNEXT = {"hidden_sizes": (96, 192, 384, 768), "depths": (3, 3, 9, 3), "layer_norm_eps": 1e-12}
_STAGES = picked("hidden_sizes", "depths")
_CONVNEXT_FIXED = {"patch_size": 4, "hidden_act": "gelu"}


def _dino_kind(description: str, more: Config) -> Kind:
    defaults = {**_DINO, "patch_size": 14, "use_swiglu_ffn": False, **more}
    sizes = _transformer(dino=True)
    return Kind(
        description,
        vit.VisionTransformer,
        defaults,
        _WITH_BIAS,
        _dino_sizes,
        sizes,
        fields=transformer_fields,
    )


def _tower_kind(
    description: str, activation: str, epsilon: float, patch: int, network_sizes: Callable
) -> Kind:
    defaults = {**_WIDE, "patch_size": patch, "hidden_act": activation, "layer_norm_eps": epsilon}
    return Kind(
        description,
        vit.VisionTransformer,
        defaults,
        {},
        _TRANSFORMER,
        network_sizes,
        fields=transformer_fields,
    )


def _convnext_kind(description: str, *, second: bool) -> Kind:
    return Kind(
        description,
        convnext.ConvNeXt,
        _CONVNEXT,
        _CONVNEXT_FIXED,
        _STAGES,
        _convnext(second),
        fields=lambda sizes: {"widths": sizes["hidden_sizes"], "blocks": sizes["depths"]},
    )


_CLIP = _tower_kind("a tower of CLIP", "quick_gelu", 1e-5, 32, _transformer(clip=True))
_SIGLIP = _tower_kind(
    "a tower of SigLIP", "gelu_pytorch_tanh", 1e-6, 16, _transformer(pool="attention")
)
# Kinds by model_type.
KINDS = {
    "vit": Kind(
        "a ViT",
        vit.VisionTransformer,
        _PLAIN,
        _WITH_BIAS,
        _TRANSFORMER,
        _transformer(),
        fields=transformer_fields,
    ),
    "deit": Kind(
        "a distilled DeiT",
        vit.VisionTransformer,
        _PLAIN,
        _WITH_BIAS,
        _TRANSFORMER,
        _transformer(distilled=True),
        fields=transformer_fields,
    ),
    "dinov2": _dino_kind("a DINOv2", {}),
    "dinov2_with_registers": _dino_kind("a DINOv2 with registers", {"num_register_tokens": 4}),
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "convnext": _convnext_kind("a ConvNeXt", second=False),
    "convnextv2": _convnext_kind("a ConvNeXt V2", second=True),
    "regnet": Kind(
        "a RegNet",
        regnet.RegNetY,
        {"hidden_sizes": (128, 192, 512, 1088), "depths": (2, 6, 12, 2), "groups_width": 64},
        {
            "layer_type": "y",
            "embedding_size": 32,
            "hidden_act": "relu",
            "downsample_in_first_stage": True,
        },
        picked("hidden_sizes", "depths", "groups_width"),
        _regnet,
        "",
    ),
    "resnet": Kind(
        "a ResNet",
        resnet.ResNet,
        {
            "embedding_size": 64,
            "hidden_sizes": (256, 512, 1024, 2048),
            "depths": (3, 4, 6, 3),
            "layer_type": "bottleneck",
        },
        {
            "downsample_in_bottleneck": False,
            "downsample_in_first_stage": False,
            "hidden_act": "relu",
        },
        picked("embedding_size", "hidden_sizes", "depths", "layer_type"),
        _resnet,
        "",
    ),
    "mobilenet_v2": Kind(
        "a MobileNetV2",
        mobilenet.MobileNetV2,
        {"depth_multiplier": 1.0, "layer_norm_eps": 1e-3, "tf_padding": True},
        {
            "tf_padding": False,
            "hidden_act": "relu6",
            "expand_ratio": 6,
            "finegrained_output": True,
            "first_layer_is_expansion": True,
        },
        picked("depth_multiplier"),
        _mobilenet,
    ),
    **{name: kind for family in networks.FAMILIES for name, kind in family.kinds.items()},
}
_NAFLEX = (
    " (a NaFlex model, whose images have any aspect ratio: name a SigLIP 2 with a fixed image size,"
    " whose model_type is siglip)"
)
_REFUSED = {"siglip2": _NAFLEX, "siglip2_vision_model": _NAFLEX}
_EPSILONS = {mobilenet.MobileNetV2: 1e-5}


def names(content: Config, location: str) -> list[str]:
    """Returns the names of the networks that a config describes.

    A network with the image size of the config comes first.

    Args:
      content: content of a config.json with a model_type.
      location: path of the config, for messages.

    Raises:
      InputError: no network in rrd_jax is equivalent, or a value is not valid.
    """
    try:
        return _names(content, location)
    except errors.InputError:
        raise
    # The values of a config that people write can be of any type.
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise errors.InputError(
            f"{location} has values that are not valid ({type(error).__name__}:"
            f" {errors.printable(str(error))}); download or correct the config"
        ) from error


def _names(content: Config, location: str) -> list[str]:
    model_type = content["model_type"]
    if model_type not in KINDS:
        text = _REFUSED.get(model_type, "")
        if model_type.endswith("_text_model"):
            text = " (a text tower: name the folder of the whole model or of its vision tower)"
        raise errors.InputError(
            f"{location}: model_type '{model_type}' is not supported{text}; supported:"
            f" {', '.join(KINDS)}"
        )
    kind = KINDS[model_type]
    vision = content.get("vision_config") or content
    config = {**kind.defaults, **vision}
    for name, value in kind.fixed.items():
        if config.get(name, value) != value:
            raise errors.InputError(
                f"{location} describes {kind.description} with {name}={config[name]}, which is not"
                f" supported: supported networks have {name}={value}"
            )
    expected = kind.sizes(config)
    instances = {name: make(num_classes=1) for name, make in networks.MODELS.items()}
    candidates = {
        name: kind.network_sizes(network)
        for name, network in instances.items()
        if type(network) is kind.family
    }
    fitting = [name for name, sizes in candidates.items() if sizes == expected]
    if not fitting:
        same_kind = {name: sizes for name, sizes in candidates.items() if sizes is not None}
        closest = sorted(
            same_kind,
            key=lambda name: len(same_kind[name].items() & expected.items()),
            reverse=True,
        )
        fitting = _variants(kind, expected, closest)
    if not fitting:
        nearest = next(iter(closest), "")
        differing = {n: v for n, v in same_kind.get(nearest, {}).items() if expected[n] != v}
        hint = f"; the closest is {nearest} with {_format_sizes(differing)}" if nearest else ""
        raise errors.InputError(
            f"{location} describes {kind.description} with {_format_sizes(expected)}, which no"
            f" network of rrd_jax has{hint}"
        )
    _check_epsilon(location, kind, config, fitting[0])
    image_size = config.get("image_size")
    return sorted(fitting, key=lambda name: networks.image_size(name) != image_size)


def _variants(kind: Kind, expected: Mapping[str, Any], names: list[str]) -> list[str]:
    """Returns a variant of the first of several networks that has the sizes of a config.

    Args:
      kind: the kind of the config.
      expected: the sizes.
      names: names of networks of the kind.
    """
    counts = [v for v in expected.values() if isinstance(v, int) and not isinstance(v, bool)]
    if not kind.fields or min(counts, default=1) < 0 or not names:
        return []
    fields = kind.fields(expected)
    variants = (networks.with_options(name, fields) for name in names)
    fits = (
        n
        for n in variants
        if kind.network_sizes(networks.MODELS[n](num_classes=1)) == expected and _is_network(n)
    )
    return list(itertools.islice(fits, 1))


def _is_network(name: str) -> bool:
    """Returns True if the fields of a variant form a network for images of its image size."""
    try:
        entry_templates.template(name)
    except (errors.InputError, ArithmeticError, LookupError, TypeError, ValueError):
        return False
    return True


def inner_moments(config: Config, content: Config) -> tuple[Any, ...]:
    """Returns the mean and standard deviation of a normalization inside the network; () for none.

    Args:
      config: the config of the image tower.
      content: content of a config.json for which `names` finds a network.
    """
    kind = KINDS[content["model_type"]]
    return tuple({**kind.defaults, **config}[name] for name in kind.moments)


def is_classifier(content: Config) -> bool:
    """Returns True if a config describes a linear classifier on the embedding."""
    architecture = str((content.get("architectures") or ["ForImageClassification"])[0])
    # The classifiers of these models read more than the embedding.
    excluded = ("dinov2", "dinov2_with_registers", "clip", "siglip")
    return "ForImageClassification" in architecture and content["model_type"] not in excluded


def _format_sizes(sizes: Mapping[str, Any]) -> str:
    texts = {n: "-".join(map(str, v)) if isinstance(v, tuple) else v for n, v in sizes.items()}
    return ", ".join(f"{name}={text}" for name, text in texts.items())


def _check_epsilon(location: str, kind: Kind, config: Config, name: str) -> None:
    """Raises an InputError if the epsilon of norms is too large; a smaller one hardly matters."""
    if not kind.epsilon:
        return
    network = networks.MODELS[name](num_classes=1)
    supported = _EPSILONS.get(kind.family, getattr(network, "epsilon", 1e-6))
    epsilon = config[kind.epsilon]
    if epsilon > supported:
        raise errors.InputError(
            f"{location} describes {kind.description} with {kind.epsilon}={epsilon}, which is not"
            f" supported: supported networks have {supported}"
        )
