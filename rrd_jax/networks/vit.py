"""Vision transformers: ViT (arXiv 2010.11929), and its variants DeiT, DINOv2, CLIP and SigLIP.

DeiT: arXiv 2012.12877, DeiT III: 2204.07118, DINOv2: 2304.07193, registers: 2309.16588, CLIP:
2103.00020, SigLIP: 2303.15343, SigLIP 2: 2502.14786. Names, modules and computation are timm's.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax.networks import layers, transformer
from rrd_jax.networks.contract import Outputs


class Block(layers.Block):
    """Attention and an MLP, each after a norm and added to its input."""

    heads: int
    mlp: float
    activation: Callable
    gated: bool
    scale: float
    epsilon: float
    drop: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps tokens [B, N, D] to [B, N, D]."""
        for i, layer in enumerate(self.branches(int(x.shape[-1] * self.mlp)), start=1):
            y = layer(self.norm(f"norm{i}")(x))
            y = self.scaled(y, i)
            x = x + transformer.DropPath(self.drop, name=f"drop_path{i}")(y, train=train)
        return x

    def norm(self, name: str) -> nn.Module:
        """Returns the norm before a branch."""
        return transformer.LayerNorm(self.epsilon, name=name)

    def branches(self, hidden: int) -> tuple[nn.Module, nn.Module]:
        """Returns the attention, and the MLP with `hidden` features."""
        attention = transformer.Attention(self.heads, self.dtype, name="attn")
        mlp = transformer.Mlp(hidden, self.activation, self.gated, self.dtype, name="mlp")
        return attention, mlp

    def scaled(self, y: jax.Array, i: int) -> jax.Array:
        """Returns the result y of branch i, 1 or 2, with a factor for each channel."""
        return transformer.LayerScale(self.scale, name=f"ls{i}")(y) if self.scale else y


class VisionTransformer(nn.Module):
    """A transformer over the patches of an image.

    The maps are the patch tokens of four evenly spaced blocks, on the grid of the patches. They end
    without a ReLU, so they are their own preactivations. The position embeddings fit the image size
    that the network is initialized with.

    Attributes:
      num_classes: number of classes C.
      patch: side of a patch in pixels.
      width: number of features D of a token.
      depth: number of blocks.
      heads: number of attention heads.
      mlp: hidden width of the MLPs, as a multiple of D.
      activation: activation of the MLPs.
      gated: whether the MLPs are SwiGLU.
      pool: input of the classifier: the class "token", the norm of the "mean" of the patch tokens,
        the mean of the "normed" or "unnormed" patch tokens, or "attention" pooling.
      distilled: whether a second token has a separate classifier (DeiT); the logits are averaged.
      registers: number of register tokens.
      patch_positions_only: whether only the patch tokens have position embeddings.
      norm_first: whether there is a norm before the blocks, and no bias for patches (CLIP).
      scale: initial value of LayerScale; 0 for no LayerScale.
      epsilon: epsilon of the norms.
      drop_path: drop-path rate of the last block; the rates of earlier blocks are proportional to
        their depth.
      dtype: type of matrix products; parameters, norms and softmaxes are float32.
    """

    decay_head = ("head", "head_dist", "attn_pool", "fc_norm")
    num_classes: int
    patch: int
    width: int
    depth: int
    heads: int
    mlp: float = 4.0
    activation: Callable = transformer.gelu
    gated: bool = False
    pool: str = "token"
    distilled: bool = False
    registers: int = 0
    patch_positions_only: bool = False
    norm_first: bool = False
    scale: float = 0.0
    epsilon: float = 1e-6
    drop_path: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @property
    def resampling(self) -> str:
        """The resampling of position embeddings; see `positions.fit`."""
        return "sharp" if self.scale == _DINO["scale"] and not self.registers else "cubic"

    @property
    def has_class_token(self) -> bool:
        """True if the first token is a class token."""
        return self.pool == "token"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        """Computes the Outputs of normalized images [B, H, W, channels]."""
        patches = self.patches()(x)
        grid = patches.shape[1:3]
        x, before = self._prepend_tokens(patches.reshape(len(patches), -1, self.width))
        if self.norm_first:
            x = self.norm(name="norm_pre")(x)
        maps, taps = [patches], layers.even_taps(self.depth)
        block = self.block(grid)
        for i, drop in enumerate(transformer.drop_rates(self.drop_path, self.depth)):
            x = block(drop=drop, name=f"blocks_{i}")(x, train=train)
            if i in taps:
                maps.append(x[:, before:].reshape(len(x), *grid, self.width))
        return self._classify(x, before, maps)

    def norm(self, name: str) -> nn.Module:
        """Returns a norm outside the blocks."""
        return transformer.LayerNorm(self.epsilon, name=name)

    def patches(self) -> nn.Module:
        """Returns the linear map of patches."""
        bias = not self.norm_first
        return transformer.Patches(self.patch, self.width, self.dtype, bias, name="patch_embed")

    def attention_pool(self) -> nn.Module:
        """Returns the attention pooling."""
        return transformer.AttentionPool(
            self.heads, self.mlp, self.activation, self.epsilon, self.dtype, name="attn_pool"
        )

    def block(self, grid: tuple[int, int]) -> partial:
        """Returns the factory of blocks for a grid of patches."""
        del grid
        return partial(
            Block,
            heads=self.heads,
            mlp=self.mlp,
            activation=self.activation,
            gated=self.gated,
            scale=self.scale,
            epsilon=self.epsilon,
            dtype=self.dtype,
        )

    def add_positions(self, tokens: list[jax.Array], patches: jax.Array) -> jax.Array:
        """Returns all tokens [B, N, D], with position embeddings."""
        x = patches
        if not self.patch_positions_only:
            x = jnp.concatenate([*tokens, x], axis=1)
        positions = self.param("pos_embed", transformer.small_normal, (1, *x.shape[1:]))
        x = (x + jnp.broadcast_to(positions, x.shape)).astype(x.dtype)
        if self.patch_positions_only:
            x = jnp.concatenate([*tokens, x], axis=1)
        return x

    def class_features(self, tokens: jax.Array) -> jax.Array:
        """Returns the embedding [B, D] of tokens [B, N, D] if the class token is pooled."""
        return tokens[:, 0]

    def _prepend_tokens(self, x: jax.Array) -> tuple[jax.Array, int]:
        """Returns the patch tokens with positions, after all other tokens, and their number."""
        rows = (1, 1, self.width)
        tokens = []
        if self.has_class_token:
            tokens.append(self.param("cls_token", nn.initializers.normal(1e-6), rows))
        if self.distilled:
            tokens.append(self.param("dist_token", transformer.small_normal, rows))
        if self.registers:
            shape = (1, self.registers, self.width)
            tokens.append(self.param("reg_token", nn.initializers.normal(1e-6), shape))
        tokens = [jnp.broadcast_to(t, (len(x), *t.shape[1:])).astype(x.dtype) for t in tokens]
        before = sum(token.shape[1] for token in tokens)
        return self.add_positions(tokens, x), before

    def _classify(self, x: jax.Array, before: int, maps: list[jax.Array]) -> Outputs:
        if self.pool in ("mean", "unnormed"):
            tokens = x[:, before:]
            embedding = tokens.astype(jnp.float32).mean(1)
            if self.pool == "mean":
                embedding = self.norm(name="fc_norm")(embedding)
        else:
            embedding = self.norm(name="norm")(x)
            tokens = embedding[:, before:]
        if self.pool == "normed":
            embedding = tokens.astype(jnp.float32).mean(1)
        # The maps have the grid of the patches.
        patches = tokens.reshape(maps[0].shape)
        if self.pool == "attention":
            embedding = self.attention_pool()(embedding)
        classifier = partial(
            layers.Classifier, self.num_classes, transformer.small_normal, zero_bias=True
        )
        embedding = embedding.astype(jnp.float32)
        if not self.distilled:
            embedding = self.class_features(embedding) if self.pool == "token" else embedding
            head = classifier(name="head")
            logits = head(embedding)
            return Outputs(logits, embedding, tuple(maps), tuple(maps), head.head, patches)
        pair = embedding[:, 0], embedding[:, 1]
        heads = classifier(name="head"), classifier(name="head_dist")
        logits = ()
        if self.num_classes:
            logits = sum(head(token) for head, token in zip(heads, pair, strict=True)) / 2
        return Outputs(logits, sum(pair) / 2, tuple(maps), tuple(maps), patches=patches)


SIZES = {
    "tiny": {"width": 192, "depth": 12, "heads": 3},
    "small": {"width": 384, "depth": 12, "heads": 6},
    "medium": {"width": 512, "depth": 12, "heads": 8},
    "base": {"width": 768, "depth": 12, "heads": 12},
    "large": {"width": 1024, "depth": 24, "heads": 16},
    "giant": {"width": 1536, "depth": 40, "heads": 24},
    # SigLIP's networks with optimized shapes (arXiv 2305.13035).
    "so400m": {"width": 1152, "depth": 27, "heads": 16, "mlp": 4304 / 1152},
    "giantopt": {"width": 1536, "depth": 40, "heads": 16},
}
_CLIP = {"norm_first": True, "epsilon": 1e-5}
_DINO = {"scale": 1e-5}
_REGISTERS = {"registers": 4, "patch_positions_only": True, **_DINO}
GATED = {"mlp": 2.66667 * 2, "gated": True, "activation": jax.nn.silu}
_DEIT3 = {"patch_positions_only": True, "scale": 1e-6}


def _vit(size: str, patch: int, **options) -> partial:
    return partial(VisionTransformer, patch=patch, **SIZES[size], **options)


# Sizes, patches and image sizes of SigLIP and SigLIP 2, and the suffix of networks with the tanh
# approximation of the GELU, which the authors and transformers use. timm has it in some networks,
# and the exact GELU in the others.
_SIGLIP = (
    ("base", 16, (224, 256, 384, 512), "_gelutanh"),
    ("large", 16, (256, 384), "_gelutanh"),
    ("so400m", 14, (224, 378), "_gelutanh"),
    ("base", 32, (256,), ""),
    ("large", 16, (512,), ""),
    ("so400m", 16, (256, 384, 512), ""),
    ("giantopt", 16, (256, 384), ""),
)


def _siglip(side: int) -> dict[str, Callable]:
    """Returns SigLIP's towers for images of `side` pixels."""
    return {
        f"vit_{size}_patch{patch}_siglip{name}_{side}": _vit(
            size, patch, pool="attention", activation=activation
        )
        for size, patch, sides, tanh in _SIGLIP
        for name, activation in {"": transformer.gelu, tanh: transformer.gelu_tanh}.items()
        if side in sides
    }


# Networks by the image size that they were published for.
_PUBLISHED: dict[int, dict[str, Callable]] = {
    224: {
        **{
            f"vit_{size}_patch{patch}_224": _vit(size, patch)
            for size, patch in (
                *(("tiny", 16), ("small", 32), ("small", 16), ("small", 8)),
                *(("base", 32), ("base", 16), ("base", 8)),
                *(("large", 32), ("large", 16), ("large", 14)),
            )
        },
        **{f"deit_{size}_patch16_224": _vit(size, 16) for size in ("tiny", "small", "base")},
        **{
            f"deit_{size}_distilled_patch16_224": _vit(size, 16, distilled=True)
            for size in ("tiny", "small", "base")
        },
        **{
            f"deit3_{size}_patch16_224": _vit(size, 16, **_DEIT3)
            for size in ("small", "medium", "base", "large")
        },
        **{
            f"vit_{size}_patch{patch}_clip{name}_224": _vit(size, patch, **_CLIP, **activation)
            for size, patch in (("base", 32), ("base", 16), ("large", 14))
            for name, activation in (
                ("", {}),
                ("_quickgelu", {"activation": transformer.quick_gelu}),
            )
        },
    },
    336: {
        "vit_large_patch14_clip_336": _vit("large", 14, **_CLIP),
        "vit_large_patch14_clip_quickgelu_336": _vit(
            "large", 14, **_CLIP, activation=transformer.quick_gelu
        ),
    },
    384: {
        **{
            f"vit_{size}_patch{patch}_384": _vit(size, patch)
            for size, patch in (
                ("tiny", 16),
                ("small", 16),
                ("base", 32),
                ("base", 16),
                ("large", 16),
            )
        },
        "deit_base_patch16_384": _vit("base", 16),
    },
    518: {
        **{
            f"vit_{size}_patch14_dinov2": _vit(size, 14, **_DINO)
            for size in ("small", "base", "large")
        },
        **{
            f"vit_{size}_patch14_reg4_dinov2": _vit(size, 14, **_REGISTERS)
            for size in ("small", "base", "large")
        },
        "vit_giant_patch14_dinov2": _vit("giant", 14, **_DINO, **GATED),
        "vit_giant_patch14_reg4_dinov2": _vit("giant", 14, **_REGISTERS, **GATED),
    },
}
for _side in (224, 256, 378, 384, 512):
    _PUBLISHED[_side] = _PUBLISHED.get(_side, {}) | _siglip(_side)
IMAGENET = {name: factory for networks in _PUBLISHED.values() for name, factory in networks.items()}
SIDES = {name: side for side, networks in _PUBLISHED.items() for name in networks}
# A small network of this project, with 2.7 million parameters.
CIFAR = {
    "vit_nano_32": partial(
        VisionTransformer, patch=4, width=192, depth=9, heads=3, mlp=2.0, pool="mean"
    )
}
