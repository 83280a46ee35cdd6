"""Layers of transformers, under timm's names: attention, MLPs, norms, positions, drop path.

Attention and MLPs compute in the network's dtype, norms and softmaxes in float32.
"""

import itertools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from rrd_jax import errors, functional
from rrd_jax.networks import layers

small_normal = nn.initializers.truncated_normal(0.02)
# timm's `trunc_normal_`, whose bounds are far away.
normal = nn.initializers.normal(0.02)


def quick_gelu(x: jax.Array) -> jax.Array:
    """Computes x sigmoid(1.702 x), the GELU of OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: jax.Array) -> jax.Array:
    """Computes the exact GELU: x times the cumulative normal distribution at x."""
    return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: jax.Array) -> jax.Array:
    """Computes the approximation of `gelu` with a tanh (arXiv 1606.08415)."""
    return jax.nn.gelu(x, approximate=True)


class Linear(nn.Module):
    """A linear layer in any dtype; parameters are float32.

    `networks.remat` treats the layer as a convolution.

    Attributes:
      features: number of output features.
      dtype: type of the computation.
      use_bias: whether a bias is added.
      kernel_init: initializer of the kernel [D, features].
    """

    features: int
    dtype: jnp.dtype = jnp.float32
    use_bias: bool = True
    kernel_init: Callable = small_normal

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., D] to [..., features]."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        y = jnp.matmul(x.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = functional.add_bias(y, bias)
        return checkpoint_name(y, "convolution")


class LayerNorm(nn.Module):
    """Layer norm over the last axis, in float32; the result has the input's dtype.

    Attributes:
      epsilon: constant added to the variance.
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes each vector of [..., D]."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        mean = wide.mean(-1, keepdims=True)
        centered = wide - mean
        factor = jax.lax.rsqrt(jnp.mean(centered * centered, -1, keepdims=True) + self.epsilon)
        y = centered * factor * functional.per_channel(scale, wide)
        return (y + functional.per_channel(bias, wide)).astype(x.dtype)


class RmsNorm(nn.Module):
    """Root mean square norm (arXiv 1910.07467) over the last axis, in float32.

    The result has the input's dtype.

    Attributes:
      epsilon: constant added to the mean of squares.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes each vector of [..., D]."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        factor = jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + self.epsilon)
        return (wide * factor * functional.per_channel(scale, wide)).astype(x.dtype)


class LayerScale(nn.Module):
    """A trained factor per channel.

    Attributes:
      start: initial value of the factors.
    """

    start: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scales [..., D]."""
        return scaled(self, x, "gamma", self.start)


def scaled(module: nn.Module, x: jax.Array, name: str, start: float) -> jax.Array:
    """Scales [..., D] by a trained factor per channel, a parameter of the calling module."""
    gamma = module.param(name, nn.initializers.constant(start), x.shape[-1:])
    return (x * functional.per_channel(gamma, x)).astype(x.dtype)


class DropPath(nn.Module):
    """Drop path (stochastic depth, arXiv 1603.09382).

    In training, drops the result of a block for random examples, and scales the result for the
    others so that the expectation is unchanged.

    Attributes:
      rate: share of examples for which the result is dropped.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Drops examples of [B, ...], the values that a block adds to its input."""
        if not train or self.rate == 0:
            return x
        keep = 1 - self.rate
        shape = (len(x), *(1,) * (x.ndim - 1))
        mask = jax.random.bernoulli(self.make_rng("dropout"), keep, shape)
        return jnp.where(mask, x / keep, 0).astype(x.dtype)


def drop_rates(largest: float, depth: int) -> list[float]:
    """Returns the drop-path rates of `depth` blocks, evenly spaced from 0 to `largest`."""
    return [largest * i / max(depth - 1, 1) for i in range(depth)]


def stage_drop_rates(largest: float, blocks: Sequence[int]) -> list[tuple[float, ...]]:
    """Returns the `drop_rates` of the blocks of each stage, from the numbers of blocks."""
    rates = iter(drop_rates(largest, sum(blocks)))
    return [tuple(itertools.islice(rates, count)) for count in blocks]


class Attention(nn.Module):
    """Multi-head self-attention over tokens.

    Attributes:
      heads: number of heads.
      dtype: type of the computation; the softmax is float32.
      use_bias: whether the linear layers have biases.
    """

    heads: int
    dtype: jnp.dtype = jnp.float32
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens [B, N, D] to [B, N, D]."""
        batch, count, dim = x.shape
        qkv = Linear(3 * dim, self.dtype, self.use_bias, name="qkv")(x)
        query, key, value = jnp.moveaxis(qkv.reshape(batch, count, 3, self.heads, -1), 2, 0)
        y = jax.nn.dot_product_attention(query, key, value)
        return Linear(dim, self.dtype, self.use_bias, name="proj")(y.reshape(batch, count, dim))


class Mlp(nn.Module):
    """Two linear layers with an activation between them.

    Attributes:
      hidden: number of hidden features.
      activation: the activation function.
      gated: whether the MLP is gated (SwiGLU, arXiv 2002.05202): the activation of one half of the
        hidden features is multiplied by the other half.
      dtype: type of the computation.
    """

    hidden: int
    activation: Callable = gelu
    gated: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., D] to [..., D]."""
        y = Linear(self.hidden, self.dtype, name="fc1")(x)
        if self.gated:
            gate, y = jnp.split(y, 2, -1)
            y = self.activation(gate) * y
        else:
            y = self.activation(y)
        return Linear(x.shape[-1], self.dtype, name="fc2")(y)


class GatedMlp(nn.Module):
    """A gated MLP (SwiGLU, arXiv 2002.05202) with separate matrices of gate and input.

    Attributes:
      hidden: number of hidden features.
      dtype: type of the computation.
      use_bias: whether the linear layers have biases.
      norm: factory of a norm of the hidden features; None for no norm.
    """

    hidden: int
    dtype: jnp.dtype = jnp.float32
    use_bias: bool = True
    norm: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., D] to [..., D]."""
        gate = Linear(self.hidden, self.dtype, self.use_bias, name="fc1_g")(x)
        y = Linear(self.hidden, self.dtype, self.use_bias, name="fc1_x")(x)
        y = jax.nn.silu(gate) * y
        y = self.norm(name="norm")(y) if self.norm else y
        return Linear(x.shape[-1], self.dtype, self.use_bias, name="fc2")(y)


class AttentionPool(nn.Module):
    """SigLIP's pooling (arXiv 2303.15343): attention of a trained query over tokens, and an MLP.

    Attributes:
      heads: number of heads.
      mlp: width of the MLP, as a multiple of the tokens' width.
      activation: activation of the MLP.
      epsilon: epsilon of the norm.
      dtype: type of the computation; norm and softmax are float32.
    """

    heads: int
    mlp: float = 4.0
    activation: Callable = gelu
    epsilon: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Pools tokens [B, N, D] to [B, D]."""
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
        mlp = Mlp(int(dim * self.mlp), self.activation, dtype=self.dtype, name="mlp")
        return y + mlp(normed)


class Patches(nn.Module):
    """A linear map of non-overlapping patches.

    Attributes:
      size: side of a patch in pixels.
      features: number of features per patch.
      dtype: type of the computation.
      use_bias: whether a bias is added.
      norm: factory of a norm of the result; None for no norm.
    """

    size: int
    features: int
    dtype: jnp.dtype = jnp.float32
    use_bias: bool = True
    norm: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images [B, H, W, channels] to [B, H / size, W / size, features].

        Raises:
          InputError: the image size is not a multiple of the patch size.
        """
        if x.shape[1] % self.size or x.shape[2] % self.size or 0 in x.shape:
            raise errors.InputError(
                f"images of {x.shape[1]}x{x.shape[2]} pixels cannot be cut into patches of"
                f" {self.size}x{self.size}; set data.image_size to a multiple of {self.size}"
            )
        y = layers.Conv(
            self.features,
            self.size,
            self.size,
            self.dtype,
            use_bias=self.use_bias,
            kernel_init=layers.torch_default,
            name="proj",
        )(x)
        return self.norm(name="norm")(y) if self.norm else y
