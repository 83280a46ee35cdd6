"""Networks that compute parts twice in training, and so keep less for the backward pass."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from rrd_jax import errors
from rrd_jax.networks import convnext, layers, mobilenet, vgg, vit
from rrd_jax.networks.contract import Network
from rrd_jax.networks.custom import CustomNetwork

_KEPT = ("statistics", "convolution")
_kept = jax.checkpoint_policies.save_only_these_names


class _Recomputed(NamedTuple):
    """A Network with the functions of another, but for an `apply` that recomputes."""

    init: Callable
    init_with_output: Callable
    apply: Callable
    dtype: Any


def _keep_convolutions(
    network: nn.Module, variables: Any, images: jax.Array, **options: Any
) -> Any:
    if isinstance(network, vit.VisionTransformer | convnext.ConvNeXt):
        # What is computed again at once would need more than is saved: a block's input is little.
        return _keep_blocks(network, variables, images, _KEPT, **options)
    # One checkpoint around the whole network: one around each block would keep its input too.
    apply = jax.checkpoint(partial(network.apply, **options), policy=_kept(*_KEPT))
    return apply(variables, images)


def _keep_blocks(
    network: nn.Module,
    variables: Any,
    images: jax.Array,
    kept: Sequence[str] = ("statistics",),
    **options: Any,
) -> Any:
    inside = False

    def recompute(call, args, kwargs, context):
        nonlocal inside
        if inside or not isinstance(context.module, layers.Block):
            return call(*args, **kwargs)
        inside = True  # nn.remat calls a copy of the block
        try:
            run = nn.remat(lambda block, x: block(x, **kwargs), policy=_kept(*kept))
            return run(context.module, *args)
        finally:
            inside = False

    with nn.intercept_methods(recompute):
        return network.apply(variables, images, **options)


_APPLY = {"none": None, "convolutions": _keep_convolutions, "all": _keep_blocks}


def remat(network: nn.Module, how: str) -> Network:
    """A network of the same variables and results, whose gradients need less memory and more time.

    Args:
      network: of `networks.create`.
      how: "convolutions" keeps the results of convolutions, of a transformer's linear layers, and
        the statistics of batch norms, and computes the rest again, such as attention's weights (of
        a transformer or ConvNeXt block by block, and so keeps the inputs of blocks too); "all"
        keeps the inputs of blocks and the statistics inside; "none" is the network itself.

    Raises:
      InputError: `how` is none of these, or "all" for a network without blocks.
    """
    apply = errors.lookup("train.remat", how, _APPLY)
    if apply and isinstance(network, CustomNetwork):
        raise errors.InputError(
            f"train.remat is '{how}', but network '{network.name}' is your own: set it to none, and"
            " use nn.remat or jax.checkpoint inside the network"
        )
    if how == "all" and isinstance(network, vgg.VGG | mobilenet.MobileNetV1):
        raise errors.InputError(
            f"train.remat is 'all', but {type(network).__name__} has no blocks; set it to"
            " convolutions"
        )
    if not apply:
        return network
    return _Recomputed(
        network.init, network.init_with_output, partial(apply, network), network.dtype
    )
