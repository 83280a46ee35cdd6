"""Networks of torchvision and timm that compute what ours of another name, or of the same, do."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from rrd_jax import networks
from rrd_jax.networks import convmixer, convnext, inverted, regnet, repvgg, vit
from rrd_jax.weights import torchvision_names
from rrd_jax.weights.key_renaming import Renaming

LIBRARIES = ("torchvision", "timm")


class Published(NamedTuple):
    """A network as other libraries have it.

    Attributes:
      torchvision: its name there, "" for none.
      timm: its name there, "" for none.
      timm_args: what timm's must be told to compute the same.
      renamings: by library, what makes the names of its entries, of our name of the network; where
        it has others than the network's modules have here.
      entries: the library whose names a state dict of ours has, "" for those of the modules.
      timm_ends: timm's names of the first convolution and of the classifier.
      timm_pool: what timm calls the way to what the classifier reads.
      is_sized: whether timm must be told the size of images.
    """

    torchvision: str = ""
    timm: str = ""
    timm_args: Mapping[str, Any] = {}
    renamings: Mapping[str, Callable[[str], Renaming]] = {}
    entries: str = ""
    timm_ends: tuple[str, str] = ("conv1", "fc")
    timm_pool: str = "avg"
    is_sized: bool = False

    def make_args(self, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        """What timm must be told to make it for images [H, W, channels]."""
        sized = {"img_size": list(image_shape[:2])} if self.is_sized else {}
        return {"in_chans": image_shape[-1], **sized, **self.timm_args}


def of(name: str) -> Published:
    """What is known of a network, by our name; nothing of most."""
    return _NETWORKS.get(networks.canonical(name), Published())


def from_timm(architecture: str) -> str:
    """Our name of a network of timm; "" where it is none of ours."""
    name = architecture.split(".")[0]  # behind the dot stands which weights
    return next((ours for ours, known in _NETWORKS.items() if known.timm == name), "")


def library_of(name: str) -> str:
    """The library whose names of entries go with a name of a network; "" for those of modules."""
    known = of(name)
    if name not in networks.ALIASES:
        return known.entries
    return next(library for library in LIBRARIES if getattr(known, library) == name)


@functools.cache
def renaming(name: str, library: str) -> Renaming | None:
    """A library's names of a network's entries; None where they are those of its modules here."""
    name = networks.canonical(name)
    make = of(name).renamings.get(library)
    return make(name) if make else None


def renamings(name: str) -> list[Renaming]:
    """All that other libraries have for what a state dict of ours names otherwise."""
    known = of(name)
    tables = (renaming(name, library) for library in known.renamings if library != known.entries)
    return [table for table in tables if table]


def respell(state_dict: Mapping[str, Any], name: str, library: str) -> dict[str, Any]:
    """A state dict of ours with a library's names and shapes; "" for those of the modules."""
    known = of(name)
    if library == known.entries:
        return dict(state_dict)
    if own_names := renaming(name, known.entries):
        state_dict = {own_names.to_ours(entry): value for entry, value in state_dict.items()}
    wanted = renaming(name, library)
    return wanted.write(state_dict) if wanted else dict(state_dict)


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
# What torchvision calls these.
_VITS, _REGNETS = (
    {ours: name for name, ours in networks.ALIASES.items() if name.startswith(kind)}
    for kind in ("vit_", "regnet_")
)
_CONVNEXTS = {f"convnext_{size}": f"convnext_{size}" for size in ("tiny", "small", "base", "large")}
_EFFICIENTNETS = {f"efficientnet_b{i}": f"efficientnet_b{i}" for i in range(5)}


def _both(
    family: Mapping[str, Any],
    make: Callable[[str], Renaming],
    theirs: Mapping[str, str],
    ends: tuple[str, str],
) -> dict[str, Published]:
    """Networks that have timm's names, of which torchvision has some."""
    return {
        name: Published(
            theirs.get(name, ""),
            name,
            renamings={"torchvision": make} if name in theirs else {},
            timm_ends=ends,
        )
        for name in family
    }


_NETWORKS: dict[str, Published] = {
    **{name: Published(name, name) for name in _RESNETS},
    "shufflenetv2_x1_0": Published("shufflenet_v2_x1_0"),
    "mobilenetv2": Published(
        "mobilenet_v2",
        "mobilenetv2_100",
        renamings={"timm": lambda _: Renaming(_mobilenetv2())},
        timm_ends=_STEM,
    ),
    # timm's has ReLU6, where the network of the benchmark has ReLU.
    "mobilenetv1": Published(
        "",
        "mobilenetv1_100",
        {"act_layer": "relu"},
        {"timm": lambda _: Renaming(_mobilenetv1())},
        timm_ends=_STEM,
    ),
    # These have timm's modules, and its names where it computes the same.
    "resnet50_gn": Published("", "resnet50_gn"),
    **{
        name: Published(
            _VITS.get(name, ""),
            name.replace("_gelutanh", ""),
            {"act_layer": "gelu_tanh"} if "_gelutanh" in name else {},
            renamings={"torchvision": torchvision_names.transformer} if name in _VITS else {},
            timm_ends=("patch_embed.proj", "head"),
            timm_pool="map" if make.keywords.get("pool") == "attention" else "token",
            is_sized=True,
        )
        for name, make in vit.IMAGENET.items()
    },
    **_both(convnext.IMAGENET, torchvision_names.convolutional, _CONVNEXTS, ("stem.0", "head.fc")),
    **_both(inverted.IMAGENET, torchvision_names.efficient, _EFFICIENTNETS, _STEM),
    **_both(regnet.IMAGENET, torchvision_names.regular, _REGNETS, ("stem.conv", "head.fc")),
    **{name: Published("", name, timm_ends=("stem.0", "head")) for name in convmixer.IMAGENET},
    **{
        name: Published("", name, timm_ends=("stem.conv_kxk.conv", "head.fc"))
        for name in repvgg.IMAGENET
    },
    **{
        name: Published(
            name, renamings={"torchvision": make}, entries="torchvision", timm_ends=_STEM
        )
        for name, make in (
            ("efficientnet_v2_s", torchvision_names.efficient),
            ("mobilenet_v3_small", torchvision_names.mobile),
            ("mobilenet_v3_large", torchvision_names.mobile),
        )
    },
}
