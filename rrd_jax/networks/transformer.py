"""Layers of transformers, under timm's names: attention, MLPs, norms, positions, drop path.

Attention and MLPs compute in the network's dtype, norms and softmaxes in float32.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from rrd_jax import errors, functional
from rrd_jax.networks import layers

small_normal = nn.initializers.truncated_normal(0.02)


def quick_gelu(x: jax.Array) -> jax.Array:
    """x sigmoid(1.702 x), as OpenAI's CLIP has it."""
    return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution's cumulative function of x."""
    return jax.nn.gelu(x, approximate=False)


class Linear(nn.Module):
    """A matrix product and a bias, in a dtype; parameters are float32.

    `networks.remat` treats it as a convolution.

    Attributes:
      features: of the result.
      dtype: what it computes in.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] to [..., features]."""
        kernel = self.param("kernel", small_normal, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = jnp.matmul(x.astype(self.dtype), kernel.astype(self.dtype))
        return checkpoint_name(functional.add_bias(y, bias), "convolution")


class LayerNorm(nn.Module):
    """Layer norm over the last axis, in float32; the result has the input's dtype.

    Attributes:
      epsilon: added to the variance.
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D], each vector normalised."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        mean = wide.mean(-1, keepdims=True)
        centred = wide - mean
        factor = jax.lax.rsqrt(jnp.mean(centred * centred, -1, keepdims=True) + self.epsilon)
        y = centred * factor * functional.per_channel(scale, wide)
        return (y + functional.per_channel(bias, wide)).astype(x.dtype)


class LayerScale(nn.Module):
    """A factor for each channel.

    Attributes:
      start: its first value.
    """

    start: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D], scaled."""
        gamma = self.param("gamma", nn.initializers.constant(self.start), (x.shape[-1],))
        return (x * functional.per_channel(gamma, x)).astype(x.dtype)


class DropPath(nn.Module):
    """Drops whole examples in training, and scales the others up to the same mean.

    Stochastic depth, arXiv 1603.09382.

    Attributes:
      rate: share that is dropped.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, ...]: what a block adds to its input."""
        if not train or self.rate == 0:
            return x
        keep = 1 - self.rate
        shape = (len(x), *(1,) * (x.ndim - 1))
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, shape)
        return jnp.where(kept, x / keep, 0).astype(x.dtype)


def drop_rates(largest: float, depth: int) -> list[float]:
    """Of blocks that follow each other: from 0 in equal steps to the largest."""
    return [largest * i / max(depth - 1, 1) for i in range(depth)]


class Attention(nn.Module):
    """Self-attention of several heads over tokens.

    Attributes:
      heads: their number.
      dtype: what it computes in, but for the softmax.
    """

    heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Tokens [B, N, D] to [B, N, D]."""
        batch, count, dim = x.shape
        qkv = Linear(3 * dim, self.dtype, name="qkv")(x)
        query, key, value = jnp.moveaxis(qkv.reshape(batch, count, 3, self.heads, -1), 2, 0)
        y = jax.nn.dot_product_attention(query, key, value)
        return Linear(dim, self.dtype, name="proj")(y.reshape(batch, count, dim))


class Mlp(nn.Module):
    """Two linear layers with an activation between them.

    Attributes:
      hidden: width between them.
      activation: of arrays.
      gated: SwiGLU (arXiv 2002.05202): half of the hidden values, activated, times the other half.
      dtype: what it computes in.
    """

    hidden: int
    activation: Callable = gelu
    gated: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] to [..., D]."""
        y = Linear(self.hidden, self.dtype, name="fc1")(x)
        if self.gated:
            gate, y = jnp.split(y, 2, -1)
            y = self.activation(gate) * y
        else:
            y = self.activation(y)
        return Linear(x.shape[-1], self.dtype, name="fc2")(y)


class AttentionPool(nn.Module):
    """Attention of one learnt query over tokens, and an MLP, as SigLIP pools (arXiv 2303.15343).

    Attributes:
      heads: their number.
      mlp: width of the MLP, as a multiple of the tokens'.
      epsilon: of its norm.
      dtype: what it computes in, but for norm and softmax.
    """

    heads: int
    mlp: float = 4.0
    epsilon: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Tokens [B, N, D] to [B, D]."""
        batch, count, dim = x.shape
        start = nn.initializers.truncated_normal(dim**-0.5)
        latent = self.param("latent", start, (1, 1, dim))
        query = Linear(dim, self.dtype, name="q")(latent).reshape(1, 1, self.heads, -1)
        query = jnp.broadcast_to(query, (batch, *query.shape[1:]))
        keys = Linear(2 * dim, self.dtype, name="kv")(x)
        key, value = jnp.moveaxis(keys.reshape(batch, count, 2, self.heads, -1), 2, 0)
        y = jax.nn.dot_product_attention(query, key, value).reshape(batch, dim)
        y = Linear(dim, self.dtype, name="proj")(y)
        normed = LayerNorm(self.epsilon, name="norm")(y)
        return y + Mlp(int(dim * self.mlp), dtype=self.dtype, name="mlp")(normed)


class Patches(nn.Module):
    """A linear map of squares of pixels that do not overlap.

    Attributes:
      size: pixels of a side.
      features: of each square.
      dtype: what it computes in.
      use_bias: whether a bias is added.
    """

    size: int
    features: int
    dtype: jnp.dtype = jnp.float32
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [B, H, W, channels] to [B, H / size, W / size, features].

        Raises:
          InputError: the squares do not cover the images.
        """
        if x.shape[1] % self.size or x.shape[2] % self.size or 0 in x.shape:
            raise errors.InputError(
                f"images of {x.shape[1]}x{x.shape[2]} pixels cannot be cut into squares of"
                f" {self.size}: set data.image_size to a multiple of {self.size}"
            )
        return layers.Conv(
            self.features,
            self.size,
            self.size,
            self.dtype,
            use_bias=self.use_bias,
            kernel_init=layers.torch_default,
            name="proj",
        )(x)
