"""Networks that compute their blocks twice in training, to keep less for the backward pass."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax

from rrd_jax import errors
from rrd_jax.models import layers, mobilenet, vgg

_KEPT = {"none": None, "convolutions": ("statistics", "convolution"), "all": ("statistics",)}


class _Remat(NamedTuple):
    network: nn.Module
    kept: tuple[str, ...]

    def apply(self, variables: Any, images: jax.Array, **options: Any) -> Any:
        policy = jax.checkpoint_policies.save_only_these_names(*self.kept)
        inside = False

        def twice(call, args, kwargs, context):
            nonlocal inside
            if inside or not isinstance(context.module, layers.Block):
                return call(*args, **kwargs)
            inside = True  # nn.remat calls a copy of the block
            try:
                run = nn.remat(lambda block, x: block(x, **kwargs), policy=policy)
                return run(context.module, *args)
            finally:
                inside = False

        with nn.intercept_methods(twice):
            return self.network.apply(variables, images, **options)


def remat(network: nn.Module, how: str) -> Any:
    """A network of the same variables and results, whose gradients need less memory and more time.

    Args:
      network: of `models.create`.
      how: what of each block is kept from the forward to the backward pass, beside its input and
        batch-norm statistics: "convolutions", their results; "all" is computed again, nothing is
        kept; "none" is, and the network is returned as it is.

    Returns:
      What has the `apply` of the network.

    Raises:
      InputError: none of these, or a network without blocks.
    """
    kept = errors.lookup("train.remat", how, _KEPT)
    if kept is None:
        return network
    if isinstance(network, vgg.VGG | mobilenet.MobileNetV1):
        raise errors.InputError(
            f"train.remat is '{how}', but {type(network).__name__} has no blocks; set it to none"
        )
    return _Remat(network, kept)
