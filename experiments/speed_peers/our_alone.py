"""What our convolutions take alone, and how fast the processor multiplies in JAX."""

import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import networks
from rrd_jax.networks import layers

_TIMES = 5


def convolutions(
    network: networks.Network, shape: tuple[int, ...], compile_: Callable, *, gradients: bool
) -> float:
    """Seconds of all convolutions of a network, each shape timed alone: medians, added.

    Args:
      network: whose convolutions are layers of ours.
      shape: of a batch, [B, H, W, channels].
      compile_: what compiles them, as a step is.
      gradients: whether to add the gradients of kernels and, but for the first layer, of maps.
    """
    found: Counter[tuple[layers.Conv, tuple[int, ...]]] = Counter()

    def record(call, args, kwargs, context):
        if isinstance(context.module, layers.Conv):
            layer = context.module.clone(parent=None, name=None)
            found[layer, args[0].shape] += 1
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    return sum(
        count * _alone(layer, maps, compile_, gradients) for (layer, maps), count in found.items()
    )


def _alone(
    layer: layers.Conv, shape: tuple[int, ...], compile_: Callable, gradients: bool
) -> float:
    maps = jax.random.normal(jax.random.key(0), shape, jnp.float32).astype(layer.dtype)
    kernel = layer.init(jax.random.key(1), maps)
    kernel = jax.tree.map(lambda leaf: leaf.astype(layer.dtype), kernel)

    def forward(kernel, maps):
        return layer.apply(kernel, maps)

    def backward(kernel, maps, cotangent):
        if shape[-1] <= 3:  # nobody asks for the gradient of an image
            return jax.vjp(lambda kernel: forward(kernel, maps), kernel)[1](cotangent)
        return jax.vjp(forward, kernel, maps)[1](cotangent)

    forward_alone = compile_(forward)
    seconds = _median(lambda: forward_alone(kernel, maps))
    if gradients:
        cotangent = jnp.ones_like(forward_alone(kernel, maps))
        backward_alone = compile_(backward)
        seconds += _median(lambda: backward_alone(kernel, maps, cotangent))
    return seconds


def product(dtype: Any) -> float:
    """FLOPs a second of a large product of matrices."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    left, right = jax.random.normal(jax.random.key(0), (2, size, size)).astype(dtype)
    multiply = jax.jit(jnp.matmul)
    return 2 * size**3 / _median(lambda: multiply(left, right))


def _median(work: Callable[[], Any]) -> float:
    """Seconds of some work, once it is compiled and warm."""
    times = []
    for _ in range(_TIMES + 1):
        start = time.perf_counter()
        jax.block_until_ready(work())
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
