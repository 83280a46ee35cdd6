"""Equivalents of the networks in torchvision and timm: names, options and entry names.

Native names are those of rrd_jax.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from rrd_jax import networks
from rrd_jax.networks import convmixer, convnext, inverted, regnet, repvgg, vit
from rrd_jax.weights import torchvision_names
from rrd_jax.weights.key_renaming import Renaming

LIBRARIES = ("torchvision", "timm")


class Published(NamedTuple):
    """The equivalents of a network in other libraries.

    Attributes:
      torchvision: name in torchvision, "" for none.
      timm: name in timm, "" for none.
      timm_args: arguments with which timm's network computes the same function.
      renamings: library -> a function that returns the renaming of a network by its native name,
        for libraries whose entry names differ from the names of the modules here.
      entries: the library whose entry names native state dicts have, "" for the modules' names.
      timm_ends: timm's names of the first convolution and of the classifier.
      timm_pool: timm's name of the pooling before the classifier.
      is_sized: whether timm requires the image size.
      timm_tags: first parts of the tags of timm's weights for this network, if timm has several
        networks of rrd_jax under one name.
    """

    torchvision: str = ""
    timm: str = ""
    timm_args: Mapping[str, Any] = {}
    renamings: Mapping[str, Callable[[str], Renaming]] = {}
    entries: str = ""
    timm_ends: tuple[str, str] = ("conv1", "fc")
    timm_pool: str = "avg"
    is_sized: bool = False
    timm_tags: tuple[str, ...] = ()

    def make_args(self, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        """Returns the arguments of timm.create_model for images [H, W, channels]."""
        sized = {"img_size": list(image_shape[:2])} if self.is_sized else {}
        return {"in_chans": image_shape[-1], **sized, **self.timm_args}


def lookup(name: str) -> Published:
    """Returns the equivalents of a network by its native name; empty for most networks."""
    base, parenthesis, _ = networks.canonical(name).partition("(")
    record = _NETWORKS.get(base, Published())
    # Other libraries have no variants, except by arguments.
    return record._replace(torchvision="", timm="") if parenthesis else record


def from_timm(architecture: str, tag: str = "") -> str:
    """Returns the native name of a network of timm; "" if there is no equivalent.

    Args:
      architecture: timm's name, with or without the tag of its weights after a dot.
      tag: the tag if the name lacks it.
    """
    name, _, own_tag = architecture.partition(".")
    # Networks that timm lacks have the name "".
    natives = {
        native: record.timm_tags
        for native, record in _NETWORKS.items()
        if record.timm and record.timm == name
    }
    tagged = (n for n, tags in natives.items() if tags and (own_tag or tag).startswith(tags))
    return next(iter((*tagged, *natives)), "")


def library_of(name: str) -> str:
    """Returns the library whose entry names belong to a network name; "" for modules' names."""
    record = lookup(name)
    if name not in networks.ALIASES:
        return record.entries
    return next(library for library in LIBRARIES if getattr(record, library) == name)


@functools.cache
def renaming(name: str, library: str) -> Renaming | None:
    """Returns the renaming of a network for a library; None if the library has modules' names."""
    name = networks.canonical(name)
    make = lookup(name).renamings.get(library)
    return make(name) if make else None


def renamings(name: str) -> list[Renaming]:
    """Returns the renamings of all libraries whose entry names differ from the native ones."""
    record = lookup(name)
    tables = (renaming(name, library) for library in record.renamings if library != record.entries)
    return [table for table in tables if table]


def rename_entries(state_dict: Mapping[str, Any], name: str, library: str) -> dict[str, Any]:
    """Converts a native state dict to a library's names and shapes; "" for the modules' names."""
    record = lookup(name)
    if library == record.entries:
        return dict(state_dict)
    if entry_names := renaming(name, record.entries):
        state_dict = {entry_names.to_native(entry): value for entry, value in state_dict.items()}
    target = renaming(name, library)
    return target.write(state_dict) if target else dict(state_dict)


def _mobilenetv1() -> Iterator[tuple[str, str]]:
    yield from {"model.0.0": "conv_stem", "model.0.1": "bn1", "fc": "classifier"}.items()
    block = {0: "conv_dw", 1: "bn1", 3: "conv_pw", 4: "bn2"}
    for i, block_name in enumerate(_block_names((1, 2, 2, 6, 2)), start=1):
        yield from ((f"model.{i}.{k}", f"{block_name}.{module}") for k, module in block.items())


def _mobilenetv2() -> Iterator[tuple[str, str]]:
    yield from {"features.0.0": "conv_stem", "features.0.1": "bn1"}.items()
    yield from {"features.18.0": "conv_head", "features.18.1": "bn2"}.items()
    yield "classifier.1", "classifier"
    flat = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
    expanding = {
        **{"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2"},
        **{"2": "conv_pwl", "3": "bn3"},
    }
    for i, block_name in enumerate(_block_names((1, 2, 3, 4, 3, 3, 1)), start=1):
        block = flat if i == 1 else expanding
        yield from (
            (f"features.{i}.conv.{k}", f"{block_name}.{module}") for k, module in block.items()
        )


def _block_names(blocks: tuple[int, ...]) -> Iterator[str]:
    for stage, count in enumerate(blocks):
        yield from (f"blocks.{stage}.{j}" for j in range(count))


_RESNETS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("wide_resnet50_2", "resnext50_32x4d"),
)
_STEM = ("conv_stem", "classifier")
# torchvision's names by native name.
_VITS, _REGNETS = (
    {native: name for name, native in networks.ALIASES.items() if name.startswith(kind)}
    for kind in ("vit_", "regnet_")
)
_CONVNEXTS = {f"convnext_{size}": f"convnext_{size}" for size in ("tiny", "small", "base", "large")}
_EFFICIENTNETS = {f"efficientnet_b{i}": f"efficientnet_b{i}" for i in range(5)}


def _with_timm_names(
    family: Mapping[str, Any],
    make: Callable[[str], Renaming],
    torchvision: Mapping[str, str],
    ends: tuple[str, str],
) -> dict[str, Published]:
    """Returns networks with timm's names; `torchvision` has torchvision's names of some."""
    return {
        name: Published(
            torchvision.get(name, ""),
            name,
            renamings={"torchvision": make} if name in torchvision else {},
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
    # timm's network has ReLU6 by default, the benchmark's network has ReLU.
    "mobilenetv1": Published(
        "",
        "mobilenetv1_100",
        {"act_layer": "relu"},
        {"timm": lambda _: Renaming(_mobilenetv1())},
        timm_ends=_STEM,
    ),
    # These networks have timm's modules, and timm's names if the networks are equal.
    "resnet50_gn": Published("", "resnet50_gn"),
    **{
        name: Published(
            _VITS.get(name, ""),
            name.replace("_gelutanh", ""),
            {"act_layer": "gelu_tanh"} if "_gelutanh" in name else {},
            renamings={"torchvision": torchvision_names.vit_renaming} if name in _VITS else {},
            timm_ends=("patch_embed.proj", "head"),
            timm_pool="map" if make.keywords.get("pool") == "attention" else "token",
            is_sized=True,
        )
        for name, make in vit.IMAGENET.items()
    },
    **_with_timm_names(
        convnext.IMAGENET, torchvision_names.convnext_renaming, _CONVNEXTS, ("stem.0", "head.fc")
    ),
    **_with_timm_names(
        inverted.IMAGENET, torchvision_names.efficientnet_renaming, _EFFICIENTNETS, _STEM
    ),
    **_with_timm_names(
        regnet.IMAGENET, torchvision_names.regnet_renaming, _REGNETS, ("stem.conv", "head.fc")
    ),
    **{name: Published("", name, timm_ends=("stem.0", "head")) for name in convmixer.IMAGENET},
    **{
        name: Published("", name, timm_ends=("stem.conv_kxk.conv", "head.fc"))
        for name in repvgg.IMAGENET
    },
    **{
        name: Published(
            "",
            family.timm_names.get(name, name),
            family.timm_args,
            timm_ends=family.timm_ends,
            timm_pool=family.timm_pool,
            is_sized=family.is_sized,
            timm_tags=family.timm_tags,
        )
        for family in networks.FAMILIES
        for name in family.networks
    },
    **{
        name: Published(
            name, renamings={"torchvision": make}, entries="torchvision", timm_ends=_STEM
        )
        for name, make in (
            ("efficientnet_v2_s", torchvision_names.efficientnet_renaming),
            ("mobilenet_v3_small", torchvision_names.mobilenet_renaming),
            ("mobilenet_v3_large", torchvision_names.mobilenet_renaming),
        )
    },
}
