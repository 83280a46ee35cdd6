"""Swin (arXiv 2103.14030) and Swin V2 (2111.09883): attention in shifted windows.

Names, modules and computation are timm's.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.networks import layers, transformer, windows
from rrd_jax.networks.contract import Outputs
from rrd_jax.networks.family import Config, Family, Kind, Layout, fused, picked, rules

_PATCH = 4
_EPSILON = 1e-5
_Norm = partial(transformer.LayerNorm, _EPSILON)


class _Block(layers.Block):
    """Attention in windows and an MLP, each added to its input."""

    attention: Callable[..., windows.Attention]
    window: windows.Size
    shift: windows.Size
    mlp: float
    second: bool
    drop: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, D] to [B, H, W, D]."""
        attention = self.attention(
            window=self.window, shift=self.shift, dtype=self.dtype, name="attn"
        )
        mlp = transformer.Mlp(int(x.shape[-1] * self.mlp), dtype=self.dtype, name="mlp")
        for i, branch in enumerate((attention, mlp), start=1):
            norm = _Norm(name=f"norm{i}")
            # The norms of V2 come after the branches.
            y = norm(branch(x)) if self.second else branch(norm(x))
            x = x + transformer.DropPath(self.drop, name=f"drop_path{i}")(y, train=train)
        return x


class _Merging(nn.Module):
    """A norm and a linear map of 2x2 positions; in V2, the norm comes after the map."""

    width: int
    second: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, D] to [B, H / 2, W / 2, width]."""
        batch, height, width, dim = x.shape
        # The rows of a column are neighbors, in the order of timm.
        x = x.reshape(batch, height // 2, 2, width // 2, 2, dim).transpose(0, 1, 3, 4, 2, 5)
        x = x.reshape(batch, height // 2, width // 2, 4 * dim)
        linear = transformer.Linear(self.width, self.dtype, use_bias=False, name="reduction")
        norm = _Norm(name="norm")
        return norm(linear(x)) if self.second else linear(norm(x))


class _Stage(nn.Module):
    """Blocks of one width, of which every other one has shifted windows."""

    width: int
    block: Callable[..., _Block]
    drops: tuple[float, ...]
    window: int
    is_first: bool
    second: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not self.is_first:
            x = _Merging(self.width, self.second, self.dtype, name="downsample")(x)
        # A window that covers a side of the map is not shifted along it.
        size = x.shape[1:3]
        window = tuple(min(side, self.window) for side in size)
        shift = tuple(self.window // 2 if side > self.window else 0 for side in size)
        for i, drop in enumerate(self.drops):
            step = shift if i % 2 else (0, 0)
            block = self.block(window=window, shift=step, drop=drop, name=f"blocks_{i}")
            x = block(x, train=train)
        return x


class Swin(nn.Module):
    """A Swin. The maps end without a ReLU, so they are their own preactivations.

    Attributes:
      num_classes: number of classes C.
      width: channels of the first stage; each stage has twice as many as the one before.
      blocks: number of blocks in each stage.
      heads: number of attention heads in each stage.
      window: rows and columns of a window.
      mlp: hidden width of the MLPs, as a multiple of the channels.
      pretrained_windows: rows and columns of the windows of each stage for which the positions of
        V2 were pretrained; () for those of the network.
      drop_path: drop-path rate of the last block; the rates of earlier blocks are proportional to
        their depth.
      dtype: type of matrix products; parameters, norms and softmaxes are float32.
    """

    decay_blocks = r"layers_\d+/blocks_\d+"
    second = False
    epsilon = _EPSILON
    num_classes: int
    width: int = 96
    blocks: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    mlp: float = 4.0
    pretrained_windows: tuple[int, ...] = ()
    drop_path: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        """Computes the Outputs of normalized images [B, H, W, channels].

        Raises:
          InputError: the windows do not divide the maps of all stages.
        """
        self._check(x.shape[1:3])
        x = transformer.Patches(_PATCH, self.width, self.dtype, norm=_Norm, name="patch_embed")(x)
        maps, rates = [x], transformer.stage_drop_rates(self.drop_path, self.blocks)
        for stage, (drops, heads) in enumerate(zip(rates, self.heads, strict=True)):
            attention = partial(windows.Attention, heads)
            if self.second:
                reference = self.pretrained_windows[stage] if self.pretrained_windows else 0
                attention = partial(windows.CosineAttention, heads, reference=reference)
            x = _Stage(
                self.width * 2**stage,
                partial(_Block, attention, mlp=self.mlp, second=self.second, dtype=self.dtype),
                drops,
                self.window,
                stage == 0,
                self.second,
                self.dtype,
                name=f"layers_{stage}",
            )(x, train=train)
            maps.append(x)
        return layers.Head(self.num_classes, name="head")(_Norm(name="norm")(x), maps, maps)

    def _check(self, size: windows.Size) -> None:
        """Raises an InputError if the windows do not divide the maps of all stages."""
        last = _PATCH * 2 ** (len(self.blocks) - 1)
        for side in size:
            grids = [side / _PATCH / 2**i for i in range(len(self.blocks))]
            fits = all(
                n % self.window == 0 or (self.second and n == int(n) and 0 < n < self.window)
                for n in grids
            )
            if not fits or not side:
                raise errors.InputError(
                    f"images of {size[0]}x{size[1]} pixels do not fit Swin's windows of"
                    f" {self.window}x{self.window}; set the image size to a multiple of"
                    f" {last * self.window}, such as teacher.image_size"
                )


class SwinV2(Swin):
    """A Swin V2: cosine attention, norms after the branches, and positions from an MLP."""

    second = True


_SIZES = {
    "tiny": {},
    "small": {"blocks": (2, 2, 18, 2)},
    "base": {"width": 128, "blocks": (2, 2, 18, 2), "heads": (4, 8, 16, 32)},
    "large": {"width": 192, "blocks": (2, 2, 18, 2), "heads": (6, 12, 24, 48)},
}
_FIRST = {
    f"swin_{size}_patch4_window{window}_{side}": partial(Swin, **_SIZES[size], window=window)
    for window, side, sizes in ((7, 224, _SIZES), (12, 384, ("base", "large")))
    for size in sizes
}
_SECOND = {
    f"swinv2_{size}_window{window}_{side}": partial(SwinV2, **_SIZES[size], window=window)
    for window, side, sizes in (
        (8, 256, ("tiny", "small", "base")),
        (16, 256, ("tiny", "small", "base")),
        (12, 192, ("base", "large")),
    )
    for size in sizes
} | {
    f"swinv2_{size}_window12to{window}_192to{16 * window}": partial(
        SwinV2, **_SIZES[size], window=window, pretrained_windows=(12, 12, 12, 6)
    )
    for window in (16, 24)
    for size in ("base", "large")
}
_BLOCK = "layers.{}.blocks.{}."
_FOREIGN = "encoder.layers.{}.blocks.{}."
_QKV, _SELF = f"{_BLOCK}attn.qkv.", f"{_FOREIGN}attention.self."
# Entries of both versions, of V1 and of V2, in timm and in transformers.
_BOTH = (
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    ("patch_embed.norm.", "embeddings.norm."),
    ("layers.{+}.downsample.norm.", "encoder.layers.{}.downsample.norm."),
    ("layers.{+}.downsample.reduction.", "encoder.layers.{}.downsample.reduction."),
    (f"{_BLOCK}attn.proj.", f"{_FOREIGN}attention.output.dense."),
    (f"{_BLOCK}norm1.", f"{_FOREIGN}layernorm_before."),
    (f"{_BLOCK}norm2.", f"{_FOREIGN}layernorm_after."),
    (f"{_BLOCK}mlp.fc1.", f"{_FOREIGN}intermediate.dense."),
    (f"{_BLOCK}mlp.fc2.", f"{_FOREIGN}output.dense."),
    ("norm.", "layernorm."),
)
_V1 = ((f"{_BLOCK}attn.relative_position_bias_table", f"{_SELF}relative_position_bias_table"),)
_V2 = (
    (f"{_BLOCK}attn.logit_scale", f"{_SELF}logit_scale"),
    (f"{_BLOCK}attn.q_bias", f"{_SELF}query.bias"),
    (f"{_BLOCK}attn.v_bias", f"{_SELF}value.bias"),
    (f"{_BLOCK}attn.cpb_mlp.0.", f"{_SELF}continuous_position_bias_mlp.0."),
    (f"{_BLOCK}attn.cpb_mlp.2.", f"{_SELF}continuous_position_bias_mlp.2."),
)
_BUFFERS = r".*(relative_position_index|relative_coords_table|attn_mask)"
# The authors differ from timm in the stage that a merging belongs to.
_AUTHORS = Layout(
    "layers.0.downsample.reduction.weight",
    "",
    rules((_QKV, _QKV), *((name, name.replace("+", "")) for name, _ in _BOTH + _V1 + _V2)),
    rules(("head.fc.", "head.")),
    ignored=_BUFFERS,
)


def _transformers(kind: str, entries: tuple[tuple[str, str], ...], leaf: str) -> Layout:
    """Returns the layout of transformers.

    Args:
      kind: model type.
      entries: native and foreign names of entries that the other version lacks.
      leaf: last part of the names of queries, keys and values that are joined.
    """
    return Layout(
        entries[0][1].format(0, 0),
        f"{kind}.",
        (
            fused(_QKV + leaf, f"{_SELF}{{}}.{leaf}", ("query", "key", "value")),
            *rules(*_BOTH, *entries),
        ),
        rules(("head.fc.", "classifier.")),
        ignored=_BUFFERS,
        fits=lambda network: network.second == (kind == "swinv2"),
    )


# Names of sizes in configs of transformers -> fields.
_FIELDS = {
    **{"embed_dim": "width", "depths": "blocks", "num_heads": "heads", "window_size": "window"},
    **{"mlp_ratio": "mlp", "pretrained_window_sizes": "pretrained_windows"},
}


def _config_sizes(config: Config) -> dict[str, Any]:
    sizes = picked(*_FIELDS)(config)
    # transformers writes zeros for the windows of the network.
    pretrained = sizes["pretrained_window_sizes"]
    return sizes | {"pretrained_window_sizes": pretrained if any(pretrained or ()) else ()}


def _kind(description: str, network: type[Swin]) -> Kind:
    return Kind(
        description,
        network,
        {
            **{"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
            **{"window_size": 7, "mlp_ratio": 4.0, "layer_norm_eps": _EPSILON},
            "pretrained_window_sizes": (),
        },
        {
            **{"patch_size": _PATCH, "qkv_bias": True, "hidden_act": "gelu"},
            "use_absolute_embeddings": False,
        },
        _config_sizes,
        lambda network: {name: getattr(network, field) for name, field in _FIELDS.items()},
        fields=lambda sizes: {field: sizes[name] for name, field in _FIELDS.items()},
    )


FAMILY = Family(
    Swin,
    _FIRST,
    image_size=224,
    sizes={name: 384 for name in _FIRST if name.endswith("384")},
    timm_ends=("patch_embed.proj", "head.fc"),
    is_sized=True,
    # The entries of transformers contain the marker of the authors, so they are read first.
    layouts={
        "transformers": (_transformers("swin", _V1, ""), _transformers("swinv2", _V2, "weight")),
        "swin": (_AUTHORS,),
    },
    kinds={"swin": _kind("a Swin", Swin)},
)
SECOND = FAMILY._replace(
    network=SwinV2,
    networks=_SECOND,
    image_size=256,
    sizes={n: int(n[-3:]) for n in _SECOND},
    kinds={"swinv2": _kind("a Swin V2", SwinV2)},
)
