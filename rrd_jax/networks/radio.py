"""C-RADIOv3 and C-RADIOv4 (arXiv 2412.07679, 2601.17237): students of several teachers.

Modules and computation are timm's, except for the embedding, which is that of the authors.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax.networks import vit
from rrd_jax.networks.family import (
    Config,
    Entries,
    Family,
    Kind,
    Layout,
    rules,
    transformer_fields,
    transformer_sizes,
)
from rrd_jax.networks.stored import Stored


class Radio(vit.VisionTransformer):
    """A transformer with a class token for each teacher, and without a norm after the blocks.

    The class tokens after the first are counted as registers, as in timm. The embedding joins the
    class tokens of the teachers with an image-level loss.

    Attributes:
      summary: positions of the class tokens that are joined.
      aligned: whether corners are aligned when positions are resampled.
    """

    patch_positions_only: bool = True
    summary: tuple[int, ...] = (0, 1)
    aligned: bool = False

    @property
    def resampling(self) -> str:
        """The resampling of position embeddings; see `positions.fit`."""
        return "aligned" if self.aligned else "cropped"

    def norm(self, name: str) -> Callable[[jax.Array], jax.Array]:
        """Returns the identity."""
        del name
        return lambda x: x

    def class_features(self, tokens: jax.Array) -> jax.Array:
        """Returns the class tokens of `summary`, joined: [B, len(summary) * D]."""
        return tokens[:, jnp.asarray(self.summary)].reshape(len(tokens), -1)


# Three of the four teachers of v3, and two of the three of v4, have an image-level loss. The
# positions of the class tokens are those of NVIDIA's TAO Toolkit for v3-B, L and H (`summary_idxs`
# in nvidia_tao_pytorch/cv/backbone_v2/radio.py; it lacks the giant network, whose teachers are the
# same), and for v4 the default of transformers.
_V3 = {"registers": 7, "summary": (0, 1, 2)}
_V4 = {"registers": 9}
_SIZES = {**vit.SIZES, "huge": {"width": 1280, "depth": 32, "heads": 16}}
# The corners are aligned as in timm, which follows the code that is published with each network.
_OPTIONS = {
    "base_patch16_radio_v3": {**_V3, "scale": 1e-5, "aligned": True},
    "large_patch16_radio_v3": {**_V3, "scale": 1e-5},
    "huge_patch16_radio_v3": {**_V3, "aligned": True},
    "giant_patch16_radio_v3": _V3,
    "so400m_patch16_radio_v4": _V4,
    "huge_patch16_radio_v4": _V4,
}


def _split_tokens(entries: Entries) -> Entries:
    """Splits all tokens, which are read as registers, into the class token and registers."""
    if (tokens := entries.get("reg_token")) is None:
        return entries
    _, count, width = tokens.shape

    def part(start: int, stop: int) -> Stored:
        def read() -> np.ndarray:
            return tokens.read()[:, start:stop]

        return Stored((1, stop - start, width), tokens.dtype, read)

    return entries | {"cls_token": part(0, 1), "reg_token": part(1, count)}


def _join_tokens(entries: Entries) -> Entries:
    """Inverts `_split_tokens`."""
    tokens = np.concatenate([entries.pop("cls_token"), entries["reg_token"]], axis=1)
    return entries | {"reg_token": tokens}


_BLOCK = "blocks.{}."
# transformers reads and writes the authors' names, but has other names for LayerScale, whose values
# it sets to 1.
_LAYOUT = Layout(
    "patch_generator.embedder.weight",
    "radio_model.model.",
    rules(
        ("reg_token", "patch_generator.cls_token.token", "rows"),
        ("pos_embed", "patch_generator.pos_embed"),
        ("patch_embed.proj.weight", "patch_generator.embedder.weight", "patches"),
        *(
            (_BLOCK + name, _BLOCK + name)
            for name in ("norm1.", "norm2.", "attn.qkv.", "attn.proj.", "mlp.fc1.", "mlp.fc2.")
        ),
        *((f"{_BLOCK}ls{i}.gamma", f"{_BLOCK}ls{i}.grandma") for i in (1, 2)),
        *((f"{_BLOCK}ls{i}.gamma", f"{_BLOCK}layer_scale{i}.lambda1") for i in (1, 2)),
    ),
    ignored=r"(radio_model\.)?(input_conditioner\.|summary_idxs|adaptors\.|_heads\."
    r"|_feature_projections\.)|patch_generator\.video_embedder\.",
    ignored_ones=r"blocks\.\d+\.layer_scale\d\.lambda1",
    zeros={"patch_embed.proj.bias": "patch_embed.proj.weight"},
    after=_split_tokens,
    before=_join_tokens,
    always=True,
)
_SIZE_NAMES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size")


def _config_sizes(config: Config) -> dict[str, Any]:
    return {
        **{name: config[name] for name in _SIZE_NAMES},
        "intermediate_size": int(config["hidden_size"] * config["mlp_ratio"]),
        "num_register_tokens": config["num_cls_tokens"] + config["num_registers"] - 1,
        "summary_idxs": tuple(config["summary_idxs"] or (0, 1)),
    }


def _network_sizes(network: Radio) -> dict[str, Any]:
    more = {"num_register_tokens": network.registers, "summary_idxs": network.summary}
    return transformer_sizes(network) | more


_KIND = Kind(
    "a C-RADIO",
    Radio,
    {
        **dict(zip(_SIZE_NAMES, (1280, 32, 16, 16), strict=True)),
        **{"mlp_ratio": 4.0, "num_cls_tokens": 3, "num_registers": 7, "summary_idxs": None},
        "norm_mean": (0.48145466, 0.4578275, 0.40821073),
        "norm_std": (0.26862954, 0.26130258, 0.27577711),
        "layer_norm_eps": 1e-6,
    },
    {
        **{"qkv_bias": True, "hidden_act": "gelu", "use_swiglu_ffn": False},
        "video_temporal_patch_size": None,
    },
    _config_sizes,
    _network_sizes,
    fields=lambda sizes: {**transformer_fields(sizes), "summary": sizes["summary_idxs"]},
    moments=("norm_mean", "norm_std"),
)
FAMILY = Family(
    Radio,
    {
        f"vit_{name}": partial(Radio, patch=16, **_SIZES[name.partition("_")[0]], **options)
        for name, options in _OPTIONS.items()
    },
    image_size=512,
    timm_ends=("patch_embed.proj", "head"),
    timm_pool="token",
    is_sized=True,
    layouts={"radio": (_LAYOUT,), "transformers": (_LAYOUT,)},
    kinds={"radio": _KIND},
)
