"""torchvision's entry names for networks whose native entry names are timm's."""

from collections.abc import Iterator

from rrd_jax.networks import convnext, inverted, regnet, vit
from rrd_jax.weights.key_renaming import Renaming

_Pairs = Iterator[tuple[str, str]]


def vit_renaming(name: str) -> Renaming:
    """Returns the renaming of a ViT, a key of `vit.IMAGENET`."""
    depth = vit.IMAGENET[name].keywords["depth"]
    return Renaming(_vit_pairs(depth), former=_former_mlp_pairs(depth))


def _vit_pairs(depth: int) -> _Pairs:
    yield "cls_token", "class_token"
    yield "pos_embed", "encoder.pos_embedding"
    yield "patch_embed.proj", "conv_proj"
    yield "norm", "encoder.ln"
    yield "head", "heads.head"
    for i in range(depth):
        native, foreign = f"blocks.{i}", f"encoder.layers.encoder_layer_{i}"
        for j in (1, 2):
            yield f"{native}.norm{j}", f"{foreign}.ln_{j}"
        for leaf in ("weight", "bias"):
            yield f"{native}.attn.qkv.{leaf}", f"{foreign}.self_attention.in_proj_{leaf}"
        yield f"{native}.attn.proj", f"{foreign}.self_attention.out_proj"
        yield f"{native}.mlp.fc1", f"{foreign}.mlp.0"
        yield f"{native}.mlp.fc2", f"{foreign}.mlp.3"


def _former_mlp_pairs(depth: int) -> _Pairs:
    """Yields pairs with the MLP names in the files that torchvision published."""
    for i in range(depth):
        for j in (1, 2):
            yield f"blocks.{i}.mlp.fc{j}", f"encoder.layers.encoder_layer_{i}.mlp.linear_{j}"


def convnext_renaming(name: str) -> Renaming:
    """Returns the renaming of a ConvNeXt, a key of `convnext.IMAGENET`."""
    blocks = convnext.IMAGENET[name].keywords["blocks"]
    return Renaming(_convnext_pairs(blocks), ranks={"layer_scale": 3})


def _convnext_pairs(blocks: tuple[int, ...]) -> _Pairs:
    yield from (("stem.0", "features.0.0"), ("stem.1", "features.0.1"))
    yield from (("head.norm", "classifier.0"), ("head.fc", "classifier.2"))
    inside = {"conv_dw": 0, "norm": 2, "mlp.fc1": 3, "mlp.fc2": 5}
    for stage, count in enumerate(blocks):
        if stage:
            for i in (0, 1):
                yield f"stages.{stage}.downsample.{i}", f"features.{2 * stage}.{i}"
        for i in range(count):
            native, foreign = f"stages.{stage}.blocks.{i}", f"features.{2 * stage + 1}.{i}"
            yield f"{native}.gamma", f"{foreign}.layer_scale"
            for module, position in inside.items():
                yield f"{native}.{module}", f"{foreign}.block.{position}"


def regnet_renaming(name: str) -> Renaming:
    """Returns the renaming of a RegNetY, a key of `regnet.IMAGENET`."""
    network = regnet.IMAGENET[name](num_classes=1)
    return Renaming(_regnet_pairs([count for _, count in network.stages()]))


def _regnet_pairs(counts: list[int]) -> _Pairs:
    yield from (("stem.conv", "stem.0"), ("stem.bn", "stem.1"), ("head.fc", "fc"))
    convolutions = {"conv1": "f.a", "conv2": "f.b", "conv3": "f.c", "downsample": "proj"}
    for stage, count in enumerate(counts, start=1):
        for i in range(count):
            native = f"s{stage}.b{i + 1}"
            foreign = f"trunk_output.block{stage}.block{stage}-{i}"
            for module, position in convolutions.items():
                yield f"{native}.{module}.conv", f"{foreign}.{position}.0"
                yield f"{native}.{module}.bn", f"{foreign}.{position}.1"
            for j in (1, 2):
                yield f"{native}.se.fc{j}", f"{foreign}.f.se.fc{j}"


# The convolutions of a block with their batch norms, in order; "se" is squeeze-and-excitation.
_BLOCK_MODULES = {
    "plain": (("conv", "bn1"),),
    "separable": (("conv_dw", "bn1"), "se", ("conv_pw", "bn2")),
    "inverted": (("conv_pw", "bn1"), ("conv_dw", "bn2"), "se", ("conv_pwl", "bn3")),
    "fused": (("conv_exp", "bn1"), ("conv_pwl", "bn2")),
}


def efficientnet_renaming(name: str) -> Renaming:
    """Returns the renaming of an EfficientNet, a key of `inverted.IMAGENET`."""
    return Renaming(_efficientnet_pairs(inverted.IMAGENET[name](num_classes=1)))


def _efficientnet_pairs(network: inverted.Inverted) -> _Pairs:
    yield from (("conv_stem", "features.0.0"), ("bn1", "features.0.1"))
    for name, shape, _ in network.blocks():
        _, stage, i = name.split("_")
        yield from _block_pairs(name, shape, f"features.{int(stage) + 1}.{i}.block")
    last = len(network.stages) + 1
    yield from (("conv_head", f"features.{last}.0"), ("bn2", f"features.{last}.1"))
    yield "classifier", "classifier.1"


def mobilenet_renaming(name: str) -> Renaming:
    """Returns the renaming of a MobileNetV3, a key of `inverted.IMAGENET`."""
    pairs = _mobilenetv3_pairs(inverted.IMAGENET[name](num_classes=1))
    return Renaming(pairs, ranks={"classifier.0.weight": 2})


def _mobilenetv3_pairs(network: inverted.Inverted) -> _Pairs:
    yield from (("conv_stem", "features.0.0"), ("bn1", "features.0.1"))
    *blocks, last = network.blocks()
    for i, (name, shape, _) in enumerate(blocks, start=1):
        yield from _block_pairs(name, shape, f"features.{i}.block")
    native, foreign = last[0].replace("_", "."), f"features.{len(blocks) + 1}"
    yield from ((f"{native}.conv", f"{foreign}.0"), (f"{native}.bn1", f"{foreign}.1"))
    yield from (("conv_head", "classifier.0"), ("classifier", "classifier.3"))


def _block_pairs(name: str, shape: inverted.Shape, foreign: str) -> _Pairs:
    native, position = name.replace("_", "."), 0
    for modules in _BLOCK_MODULES[shape.kind]:
        if modules == "se":
            if not shape.squeeze:
                continue
            yield f"{native}.se.conv_reduce", f"{foreign}.{position}.fc1"
            yield f"{native}.se.conv_expand", f"{foreign}.{position}.fc2"
        else:
            for i, module in enumerate(modules):
                yield f"{native}.{module}", f"{foreign}.{position}.{i}"
        position += 1
