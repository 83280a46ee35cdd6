"""Networks of torchvision and timm that compute what ours of another name, or of the same, do."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from rrd_jax.networks import convnext, inverted, regnet, vit

_Value = TypeVar("_Value")
_LEAVES = r"weight|bias|running_mean|running_var|num_batches_tracked"


class Published(NamedTuple):
    """A network as other libraries have it; entries are named as torchvision, or the reference, do.

    Attributes:
      torchvision: its name there, "" for none.
      timm: its name there, "" for none.
      timm_args: what timm's must be told to compute the same.
      timm_modules: {our module: timm's}, where timm names them otherwise.
      timm_ends: timm's names of the first convolution and of the classifier.
      timm_pool: what timm calls the way to what the classifier reads.
      is_sized: whether timm must be told the size of images.
    """

    torchvision: str = ""
    timm: str = ""
    timm_args: Mapping[str, Any] = {}
    timm_modules: Mapping[str, str] = {}
    timm_ends: tuple[str, str] = ("conv1", "fc")
    timm_pool: str = "avg"
    is_sized: bool = False

    def make_args(self, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        """What timm must be told to make it for images [H, W, channels]."""
        sized = {"img_size": list(image_shape[:2])} if self.is_sized else {}
        return {"in_chans": image_shape[-1], **sized, **self.timm_args}


def of(name: str) -> Published:
    """What is known of a network, by our name; nothing of most."""
    return _NETWORKS.get(name, Published())


def from_timm(architecture: str) -> str:
    """Our name of a network of timm; "" where it is none of ours."""
    name = architecture.split(".")[0]  # behind the dot stands which weights
    return next((ours for ours, known in _NETWORKS.items() if known.timm == name), "")


def respelling(name: str) -> Callable[[str], str] | None:
    """Makes a network's entry as timm names it one of ours; None where the names are the same."""
    modules = {theirs: ours for ours, theirs in of(name).timm_modules.items()}
    return _renaming(modules) if modules else None


def to_timm(name: str, state_dict: Mapping[str, _Value]) -> dict[str, _Value]:
    """A state dict of a network with our entry names, as timm has it."""
    rename = _renaming(of(name).timm_modules) if of(name).timm_modules else str
    return {rename(entry): value for entry, value in state_dict.items()}


def _renaming(modules: Mapping[str, str]) -> Callable[[str], str]:
    known = "|".join(map(re.escape, modules))
    expression = re.compile(rf"(^|\.)({known})\.(?=({_LEAVES})$)")
    return lambda entry: expression.sub(lambda match: f"{match[1]}{modules[match[2]]}.", entry)


def _mobilenetv1() -> Iterator[tuple[str, str]]:
    yield from {"model.0.0": "conv_stem", "model.0.1": "bn1", "fc": "classifier"}.items()
    block = {0: "conv_dw", 1: "bn1", 3: "conv_pw", 4: "bn2"}
    for i, place in enumerate(_places((1, 2, 2, 6, 2)), start=1):
        yield from ((f"model.{i}.{k}", f"{place}.{module}") for k, module in block.items())


def _mobilenetv2() -> Iterator[tuple[str, str]]:
    yield from {"features.0.0": "conv_stem", "features.0.1": "bn1"}.items()
    yield from {"features.18.0": "conv_head", "features.18.1": "bn2"}.items()
    yield "classifier.1", "classifier"
    flat = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
    widening = {
        **{"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2"},
        **{"2": "conv_pwl", "3": "bn3"},
    }
    for i, place in enumerate(_places((1, 2, 3, 4, 3, 3, 1)), start=1):
        block = flat if i == 1 else widening
        yield from ((f"features.{i}.conv.{k}", f"{place}.{m}") for k, m in block.items())


def _places(blocks: tuple[int, ...]) -> Iterator[str]:
    for stage, count in enumerate(blocks):
        yield from (f"blocks.{stage}.{j}" for j in range(count))


_RESNETS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("wide_resnet50_2", "resnext50_32x4d"),
)
_STEM = ("conv_stem", "classifier")
_NETWORKS: dict[str, Published] = {
    **{name: Published(name, name) for name in _RESNETS},
    "shufflenetv2_x1_0": Published("shufflenet_v2_x1_0"),
    "mobilenetv2": Published("mobilenet_v2", "mobilenetv2_100", {}, dict(_mobilenetv2()), _STEM),
    # timm's has ReLU6, where the network of the benchmark has ReLU.
    "mobilenetv1": Published(
        "", "mobilenetv1_100", {"act_layer": "relu"}, dict(_mobilenetv1()), _STEM
    ),
    # Ours have timm's names and modules.
    "resnet50_gn": Published("", "resnet50_gn"),
    **{
        name: Published(
            "",
            name.replace("_gelutanh", ""),
            {"act_layer": "gelu_tanh"} if "_gelutanh" in name else {},
            timm_ends=("patch_embed.proj", "head"),
            timm_pool="map" if make.keywords.get("pool") == "attention" else "token",
            is_sized=True,
        )
        for name, make in vit.IMAGENET.items()
    },
    **{name: Published("", name, timm_ends=("stem.0", "head.fc")) for name in convnext.IMAGENET},
    **{name: Published("", name, timm_ends=_STEM) for name in inverted.IMAGENET},
    **{name: Published("", name, timm_ends=("stem.conv", "head.fc")) for name in regnet.IMAGENET},
}
