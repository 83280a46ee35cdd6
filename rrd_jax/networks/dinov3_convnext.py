"""DINOv3's ConvNeXts (arXiv 2508.10104), whose patches are the last map under the final norm.

timm has these networks under the names of ConvNeXt, with other tags. EUPE (arXiv 2603.22387) has
the same networks.
"""

from functools import partial

from rrd_jax.networks import convnext
from rrd_jax.networks.family import Family, Kind, Layout, picked, rules


class DinoV3ConvNeXt(convnext.ConvNeXt):
    """A ConvNeXt whose patches are the last map under the final norm."""

    normed_patches: bool = True


_NAMES = {
    f"convnext_{size}_dinov3": f"convnext_{size}" for size in ("tiny", "small", "base", "large")
}


def _layout(marker: str, stem: str, downsample: str, block: str, names: dict[str, str]) -> Layout:
    """Builds a layout.

    Args:
      marker: see `Layout`.
      stem: foreign name of the first convolution and its norm, with a placeholder for 0 and 1.
      downsample: foreign name of the norm and the convolution before a stage.
      block: foreign prefix of a block.
      names: native name in a block -> foreign name.
    """
    return Layout(
        marker,
        "",
        rules(
            *((f"stem.{i}.", f"{stem}{i}.") for i in range(2)),
            ("stages.{}.downsample.{}.", downsample),
            *(("stages.{}.blocks.{}." + name, block + other) for name, other in names.items()),
            ("head.norm.", "layer_norm." if "layer_norm." in names.values() else "norm."),
        ),
        rules(("head.fc.", "head.")),
        ignored=r"mask_token|norms\.|projectors\.",
    )


_TRANSFORMERS = _layout(
    "stages.0.layers.0.depthwise_conv.weight",
    "stages.0.downsample_layers.",
    "stages.{}.downsample_layers.{}.",
    "stages.{}.layers.{}.",
    {
        "conv_dw.": "depthwise_conv.",
        "norm.": "layer_norm.",
        "mlp.fc1.": "pointwise_conv1.",
        "mlp.fc2.": "pointwise_conv2.",
        "gamma": "gamma",
    },
)
_AUTHORS = _layout(
    "stages.0.0.dwconv.weight",
    "downsample_layers.0.",
    "downsample_layers.{}.{}.",
    "stages.{}.{}.",
    {
        "conv_dw.": "dwconv.",
        "norm.": "norm.",
        "mlp.fc1.": "pwconv1.",
        "mlp.fc2.": "pwconv2.",
        "gamma": "gamma",
    },
)
_KIND = Kind(
    "a DINOv3 ConvNeXt",
    DinoV3ConvNeXt,
    {"hidden_sizes": (96, 192, 384, 768), "depths": (3, 3, 9, 3), "layer_norm_eps": 1e-6},
    {"hidden_act": "gelu"},
    picked("hidden_sizes", "depths"),
    lambda network: {"hidden_sizes": network.widths, "depths": network.blocks},
    fields=lambda sizes: {"widths": sizes["hidden_sizes"], "blocks": sizes["depths"]},
)
FAMILY = Family(
    DinoV3ConvNeXt,
    {
        name: partial(DinoV3ConvNeXt, **convnext.IMAGENET[timm].keywords)
        for name, timm in _NAMES.items()
    },
    image_size=256,
    timm_ends=("stem.0", "head.fc"),
    timm_names=_NAMES,
    timm_tags=("dinov3", "eupe"),
    layouts={"transformers": (_TRANSFORMERS,), "dinov3": (_AUTHORS,)},
    kinds={"dinov3_convnext": _KIND},
)
