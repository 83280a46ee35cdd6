"""Finds the network that a config.json of transformers describes."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rrd_jax import errors, networks
from rrd_jax.networks import convnext, mobilenet, regnet, resnet, transformer, vit

Config = Mapping[str, Any]
_ACTIVATIONS = {
    "gelu": transformer.gelu,
    "quick_gelu": transformer.quick_gelu,
    "gelu_pytorch_tanh": transformer.gelu_tanh,
}


class Kind(NamedTuple):
    """A kind of network of transformers.

    Attributes:
      description: the kind in words.
      family: our class of networks.
      defaults: values that a config leaves out.
      fixed: values that a config must have for a network here.
      sizes: config -> the values that tell networks of the kind apart, by name.
      ours: one of our networks -> the same values; None if it is of another kind.
      epsilon: name of the value that is added to variances, "" for none.
    """

    description: str
    family: type
    defaults: Config
    fixed: Config
    sizes: Callable[[Config], dict[str, Any]]
    ours: Callable[[Any], dict[str, Any] | None]
    epsilon: str = "layer_norm_eps"


_WIDE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "patch_size": 16,
}


def _picked(*names: str) -> Callable[[Config], dict[str, Any]]:
    def sizes(config: Config) -> dict[str, Any]:
        return {n: tuple(v) if isinstance(v := config[n], list) else v for n in names}

    return sizes


_TRANSFORMER = _picked(*_WIDE, "hidden_act")


def _dino_sizes(config: Config) -> dict[str, Any]:
    gated, hidden = config["use_swiglu_ffn"], int(config["hidden_size"] * config["mlp_ratio"])
    if gated:  # two matrices, each of two thirds, rounded up to a multiple of 8
        hidden = 2 * ((int(hidden * 2 / 3) + 7) // 8 * 8)
    activation = "silu" if gated else config["hidden_act"]
    registers = config.get("num_register_tokens", 0)
    sizes = _TRANSFORMER({**config, "intermediate_size": hidden, "hidden_act": activation})
    return sizes | {"use_swiglu_ffn": gated, "num_register_tokens": registers}


def _transformer(
    *, pool: str = "token", clip: bool = False, distilled: bool = False, dino: bool = False
) -> Callable[[vit.VisionTransformer], dict[str, Any] | None]:
    """What our transformers of a kind are, in the words of a config."""

    def ours(network: vit.VisionTransformer) -> dict[str, Any] | None:
        kind = (network.pool, network.norm_first, network.distilled, bool(network.scale))
        if kind != (pool, clip, distilled, dino):
            return None
        if network.patch_positions_only != bool(network.registers):
            return None
        names = {function: name for name, function in _ACTIVATIONS.items()}
        sizes = {
            "hidden_size": network.width,
            "num_hidden_layers": network.depth,
            "num_attention_heads": network.heads,
            "intermediate_size": int(network.width * network.mlp),
            "patch_size": network.patch,
            "hidden_act": names.get(network.activation, "silu"),
        }
        if not dino:
            return None if network.gated or network.registers else sizes
        more = {"use_swiglu_ffn": network.gated, "num_register_tokens": network.registers}
        return sizes | more

    return ours


def _convnext(second: bool) -> Callable[[convnext.ConvNeXt], dict[str, Any] | None]:
    def ours(network: convnext.ConvNeXt) -> dict[str, Any] | None:
        same = network.second == second
        return {"hidden_sizes": network.widths, "depths": network.blocks} if same else None

    return ours


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
_STAGES = _picked("hidden_sizes", "depths")
_CONVNEXT_FIXED = {"patch_size": 4, "hidden_act": "gelu"}


def _kind_of_dino(description: str, more: Config) -> Kind:
    defaults = {**_DINO, "patch_size": 14, "use_swiglu_ffn": False, **more}
    ours = _transformer(dino=True)
    return Kind(description, vit.VisionTransformer, defaults, _WITH_BIAS, _dino_sizes, ours)


def _kind_of_tower(
    description: str, activation: str, epsilon: float, patch: int, ours: Callable
) -> Kind:
    defaults = {**_WIDE, "patch_size": patch, "hidden_act": activation, "layer_norm_eps": epsilon}
    return Kind(description, vit.VisionTransformer, defaults, {}, _TRANSFORMER, ours)


_CLIP = _kind_of_tower("a tower of CLIP", "quick_gelu", 1e-5, 32, _transformer(clip=True))
_SIGLIP = _kind_of_tower(
    "a tower of SigLIP", "gelu_pytorch_tanh", 1e-6, 16, _transformer(pool="attention")
)
# By model_type.
KINDS = {
    "vit": Kind("a ViT", vit.VisionTransformer, _PLAIN, _WITH_BIAS, _TRANSFORMER, _transformer()),
    "deit": Kind(
        "a distilled DeiT",
        vit.VisionTransformer,
        _PLAIN,
        _WITH_BIAS,
        _TRANSFORMER,
        _transformer(distilled=True),
    ),
    "dinov2": _kind_of_dino("a DINOv2", {}),
    "dinov2_with_registers": _kind_of_dino("a DINOv2 with registers", {"num_register_tokens": 4}),
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "convnext": Kind(
        "a ConvNeXt", convnext.ConvNeXt, _CONVNEXT, _CONVNEXT_FIXED, _STAGES, _convnext(False)
    ),
    "convnextv2": Kind(
        "a ConvNeXt V2", convnext.ConvNeXt, _CONVNEXT, _CONVNEXT_FIXED, _STAGES, _convnext(True)
    ),
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
        _picked("hidden_sizes", "depths", "groups_width"),
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
        _picked("embedding_size", "hidden_sizes", "depths", "layer_type"),
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
        _picked("depth_multiplier"),
        _mobilenet,
    ),
}
_EPSILONS = {mobilenet.MobileNetV2: 1e-5}


def names(content: Config, where: str) -> list[str]:
    """Returns our names of the networks that a config describes, that of its image size first.

    Args:
      content: content of a config.json with a model_type.
      where: path of the config, for messages.

    Raises:
      InputError: no network here has its kind and its sizes, and computes the same.
    """
    model_type = content["model_type"]
    if model_type not in KINDS:
        text = (
            " (a text tower: name the folder of the whole model, or of its vision tower)"
            if model_type.endswith("_text_model")
            else ""
        )
        raise errors.InputError(
            f"{where} is of model_type '{model_type}', which is not read{text}; those that are:"
            f" {', '.join(KINDS)}"
        )
    kind = KINDS[model_type]
    vision = content.get("vision_config") or content
    config = {**kind.defaults, **vision}
    for name, value in kind.fixed.items():
        if config.get(name, value) != value:
            raise errors.InputError(
                f"{where} is of {kind.description} with {name}={config[name]}, which is no network"
                f" here: those here have {name}={value}"
            )
    wanted = kind.sizes(config)
    networks_here = {name: make(num_classes=1) for name, make in networks.MODELS.items()}
    known = {n: kind.ours(x) for n, x in networks_here.items() if isinstance(x, kind.family)}
    fitting = [name for name, sizes in known.items() if sizes == wanted]
    if not fitting:
        same = {name: sizes for name, sizes in known.items() if sizes is not None}
        nearest = max(same, key=lambda name: len(same[name].items() & wanted.items()), default="")
        differing = {n: v for n, v in same.get(nearest, {}).items() if wanted[n] != v}
        hint = f"; {nearest} comes nearest, with {_listed(differing)}" if nearest else ""
        raise errors.InputError(
            f"{where} is of {kind.description} with {_listed(wanted)}, and no network here is{hint}"
        )
    _check_epsilon(where, kind, config, fitting[0])
    side = config.get("image_size")
    return sorted(fitting, key=lambda name: networks.image_size(name) != side)


def is_classifier(content: Config) -> bool:
    """Returns True if a config's network classifies by a linear layer on its embedding."""
    named = str((content.get("architectures") or ["ForImageClassification"])[0])
    elsewhere = ("dinov2", "dinov2_with_registers", "clip", "siglip")
    return "ForImageClassification" in named and content["model_type"] not in elsewhere


def _listed(sizes: Mapping[str, Any]) -> str:
    texts = {n: "-".join(map(str, v)) if isinstance(v, tuple) else v for n, v in sizes.items()}
    return ", ".join(f"{name}={text}" for name, text in texts.items())


def _check_epsilon(where: str, kind: Kind, config: Config, name: str) -> None:
    """Raises an InputError if norms add more to variances than ours do; less hardly matters."""
    if not kind.epsilon:
        return
    network = networks.MODELS[name](num_classes=1)
    here = _EPSILONS.get(kind.family, getattr(network, "epsilon", 1e-6))
    there = config[kind.epsilon]
    if there > here:
        raise errors.InputError(
            f"{where} is of {kind.description} with {kind.epsilon}={there}, which is no network"
            f" here: those here have {here}"
        )
