"""Rematerialization: networks that recompute activations in the backward pass."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from rrd_jax import errors
from rrd_jax.networks import convnext, layers, mobilenet, vgg, vit
from rrd_jax.networks.contract import Network
from rrd_jax.networks.custom import CustomNetwork

_SAVED = ("statistics", "convolution")
_save_only = jax.checkpoint_policies.save_only_these_names


class _Recomputed(NamedTuple):
    """A Network with the functions of another Network, and an `apply` that recomputes."""

    init: Callable
    init_with_output: Callable
    apply: Callable
    dtype: Any


def _save_convolutions(
    network: nn.Module, function: Callable, variables: Any, images: jax.Array, **options: Any
) -> Any:
    if isinstance(network, vit.VisionTransformer | convnext.ConvNeXt):
        # Recomputing the whole network at once would need more memory than it saves; the inputs of
        # blocks are small.
        return _save_blocks(network, function, variables, images, _SAVED, **options)
    # One checkpoint covers the whole network. A checkpoint per block would also save its input.
    apply = jax.checkpoint(partial(function, **options), policy=_save_only(*_SAVED))
    return apply(variables, images)


def _save_blocks(
    network: nn.Module,
    function: Callable,
    variables: Any,
    images: jax.Array,
    saved: Sequence[str] = ("statistics",),
    **options: Any,
) -> Any:
    inside = False

    def recompute(call, args, kwargs, context):
        nonlocal inside
        if inside or not isinstance(context.module, layers.Block):
            return call(*args, **kwargs)
        # nn.remat calls a copy of the block, which must not be intercepted again.
        inside = True
        try:
            run = nn.remat(lambda block, x: block(x, **kwargs), policy=_save_only(*saved))
            return run(context.module, *args)
        finally:
            inside = False

    with nn.intercept_methods(recompute):
        return function(variables, images, **options)


_APPLY = {"none": None, "convolutions": _save_convolutions, "all": _save_blocks}


def remat(network: nn.Module, mode: str, applied: Network | None = None) -> Network:
    """Returns a network with the same results, whose gradients need less memory and more time.

    Args:
      network: a network of `networks.create`.
      mode: "convolutions" saves the results of convolutions and of a transformer's linear layers,
        and the statistics of batch norms, and recomputes all other activations, such as attention
        weights; transformers and ConvNeXt are recomputed block by block, so the inputs of blocks
        are saved too. "all" saves the inputs of blocks and the statistics inside blocks only.
        "none" returns the applied network.
      applied: a network with the same variables and results, whose `apply` is used, such as the
        network that gathers its weights; None for the network itself.

    Raises:
      InputError: `mode` is unknown, "all" for a network without blocks, or not "none" for a custom
        network.
    """
    apply = errors.lookup("train.remat", mode, _APPLY)
    if apply and isinstance(network, CustomNetwork):
        raise errors.InputError(
            f"train.remat is '{mode}', but network '{network.name}' is a custom network; set it to"
            " none, and use nn.remat or jax.checkpoint inside the network"
        )
    if mode == "all" and isinstance(network, vgg.VGG | mobilenet.MobileNetV1):
        raise errors.InputError(
            f"train.remat is 'all', but {type(network).__name__} has no blocks; set it to"
            " convolutions"
        )
    applied = applied or network
    if not apply:
        return applied
    recomputed = partial(apply, network, applied.apply)
    return _Recomputed(network.init, network.init_with_output, recomputed, network.dtype)
