"""Networks that compute parts of themselves twice in training, for the backward pass's memory."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from rrd_jax import errors
from rrd_jax.networks import layers, mobilenet, vgg

_kept = jax.checkpoint_policies.save_only_these_names


class _BetweenConvolutions(NamedTuple):
    network: nn.Module

    def apply(self, variables: Any, images: jax.Array, **options: Any) -> Any:
        apply = functools.partial(self.network.apply, **options)
        # Of all in one, since a block by itself would keep its input too.
        again = jax.checkpoint(apply, policy=_kept("statistics", "convolution"))
        return again(variables, images)


class _Blocks(NamedTuple):
    network: nn.Module

    def apply(self, variables: Any, images: jax.Array, **options: Any) -> Any:
        inside = False

        def twice(call, args, kwargs, context):
            nonlocal inside
            if inside or not isinstance(context.module, layers.Block):
                return call(*args, **kwargs)
            inside = True  # nn.remat calls a copy of the block
            try:
                run = nn.remat(lambda block, x: block(x, **kwargs), policy=_kept("statistics"))
                return run(context.module, *args)
            finally:
                inside = False

        with nn.intercept_methods(twice):
            return self.network.apply(variables, images, **options)


_HOW = {"none": lambda network: network, "convolutions": _BetweenConvolutions, "all": _Blocks}


def remat(network: nn.Module, how: str) -> Any:
    """A network of the same variables and results, whose gradients need less memory and more time.

    Args:
      network: of `networks.create`.
      how: "convolutions" keeps their results and batch-norm statistics, and computes the rest
        again; "all" keeps the inputs of blocks and their statistics; "none" is the network itself.

    Returns:
      What has the `apply` of the network.

    Raises:
      InputError: none of these, or "all" of a network without blocks.
    """
    wrap = errors.lookup("train.remat", how, _HOW)
    if how == "all" and isinstance(network, vgg.VGG | mobilenet.MobileNetV1):
        raise errors.InputError(
            f"train.remat is 'all', but {type(network).__name__} has no blocks; set it to"
            " convolutions"
        )
    return wrap(network)
