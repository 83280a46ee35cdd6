"""torchvision's names of the entries of networks that have timm's here."""

from collections.abc import Iterator

from rrd_jax.networks import convnext, inverted, regnet, vit
from rrd_jax.weights.key_renaming import Renaming

_Pairs = Iterator[tuple[str, str]]


def transformer(name: str) -> Renaming:
    """Of a ViT, a key of `vit.IMAGENET`."""
    depth = vit.IMAGENET[name].keywords["depth"]
    return Renaming(_transformer(depth), former=_former_mlps(depth))


def _transformer(depth: int) -> _Pairs:
    yield "cls_token", "class_token"
    yield "pos_embed", "encoder.pos_embedding"
    yield "patch_embed.proj", "conv_proj"
    yield "norm", "encoder.ln"
    yield "head", "heads.head"
    for i in range(depth):
        ours, theirs = f"blocks.{i}", f"encoder.layers.encoder_layer_{i}"
        for j in (1, 2):
            yield f"{ours}.norm{j}", f"{theirs}.ln_{j}"
        for leaf in ("weight", "bias"):
            yield f"{ours}.attn.qkv.{leaf}", f"{theirs}.self_attention.in_proj_{leaf}"
        yield f"{ours}.attn.proj", f"{theirs}.self_attention.out_proj"
        yield f"{ours}.mlp.fc1", f"{theirs}.mlp.0"
        yield f"{ours}.mlp.fc2", f"{theirs}.mlp.3"


def _former_mlps(depth: int) -> _Pairs:
    """As the files have them that torchvision published."""
    for i in range(depth):
        for j in (1, 2):
            yield f"blocks.{i}.mlp.fc{j}", f"encoder.layers.encoder_layer_{i}.mlp.linear_{j}"


def convolutional(name: str) -> Renaming:
    """Of a ConvNeXt, a key of `convnext.IMAGENET`."""
    blocks = convnext.IMAGENET[name].keywords["blocks"]
    return Renaming(_convnext(blocks), ranks={"layer_scale": 3})


def _convnext(blocks: tuple[int, ...]) -> _Pairs:
    yield from (("stem.0", "features.0.0"), ("stem.1", "features.0.1"))
    yield from (("head.norm", "classifier.0"), ("head.fc", "classifier.2"))
    inside = {"conv_dw": 0, "norm": 2, "mlp.fc1": 3, "mlp.fc2": 5}
    for stage, count in enumerate(blocks):
        if stage:
            for i in (0, 1):
                yield f"stages.{stage}.downsample.{i}", f"features.{2 * stage}.{i}"
        for i in range(count):
            ours, theirs = f"stages.{stage}.blocks.{i}", f"features.{2 * stage + 1}.{i}"
            yield f"{ours}.gamma", f"{theirs}.layer_scale"
            for module, place in inside.items():
                yield f"{ours}.{module}", f"{theirs}.block.{place}"


def regular(name: str) -> Renaming:
    """Of a RegNetY, a key of `regnet.IMAGENET`."""
    network = regnet.IMAGENET[name](num_classes=1)
    return Renaming(_regnet([count for _, count in network.stages()]))


def _regnet(counts: list[int]) -> _Pairs:
    yield from (("stem.conv", "stem.0"), ("stem.bn", "stem.1"), ("head.fc", "fc"))
    convolutions = {"conv1": "f.a", "conv2": "f.b", "conv3": "f.c", "downsample": "proj"}
    for stage, count in enumerate(counts, start=1):
        for i in range(count):
            ours = f"s{stage}.b{i + 1}"
            theirs = f"trunk_output.block{stage}.block{stage}-{i}"
            for module, place in convolutions.items():
                yield f"{ours}.{module}.conv", f"{theirs}.{place}.0"
                yield f"{ours}.{module}.bn", f"{theirs}.{place}.1"
            for j in (1, 2):
                yield f"{ours}.se.fc{j}", f"{theirs}.f.se.fc{j}"


# Convolutions of a block with their batch norms, in order, where channels are weighted between two.
_INSIDE = {
    "plain": (("conv", "bn1"),),
    "separable": (("conv_dw", "bn1"), "se", ("conv_pw", "bn2")),
    "inverted": (("conv_pw", "bn1"), ("conv_dw", "bn2"), "se", ("conv_pwl", "bn3")),
    "fused": (("conv_exp", "bn1"), ("conv_pwl", "bn2")),
}


def efficient(name: str) -> Renaming:
    """Of an EfficientNet, a key of `inverted.IMAGENET`."""
    return Renaming(_efficientnet(inverted.IMAGENET[name](num_classes=1)))


def _efficientnet(network: inverted.Inverted) -> _Pairs:
    yield from (("conv_stem", "features.0.0"), ("bn1", "features.0.1"))
    for name, shape, _ in network.blocks():
        _, stage, i = name.split("_")
        yield from _block(name, shape, f"features.{int(stage) + 1}.{i}.block")
    last = len(network.stages) + 1
    yield from (("conv_head", f"features.{last}.0"), ("bn2", f"features.{last}.1"))
    yield "classifier", "classifier.1"


def mobile(name: str) -> Renaming:
    """Of a MobileNetV3, a key of `inverted.IMAGENET`."""
    pairs = _mobilenetv3(inverted.IMAGENET[name](num_classes=1))
    return Renaming(pairs, ranks={"classifier.0.weight": 2})


def _mobilenetv3(network: inverted.Inverted) -> _Pairs:
    yield from (("conv_stem", "features.0.0"), ("bn1", "features.0.1"))
    *blocks, last = network.blocks()
    for i, (name, shape, _) in enumerate(blocks, start=1):
        yield from _block(name, shape, f"features.{i}.block")
    ours, theirs = last[0].replace("_", "."), f"features.{len(blocks) + 1}"
    yield from ((f"{ours}.conv", f"{theirs}.0"), (f"{ours}.bn1", f"{theirs}.1"))
    yield from (("conv_head", "classifier.0"), ("classifier", "classifier.3"))


def _block(name: str, shape: inverted.Shape, theirs: str) -> _Pairs:
    ours, place = name.replace("_", "."), 0
    for modules in _INSIDE[shape.kind]:
        if modules == "se":
            if not shape.squeeze:
                continue
            yield f"{ours}.se.conv_reduce", f"{theirs}.{place}.fc1"
            yield f"{ours}.se.conv_expand", f"{theirs}.{place}.fc2"
        else:
            for i, module in enumerate(modules):
                yield f"{ours}.{module}", f"{theirs}.{place}.{i}"
        place += 1
