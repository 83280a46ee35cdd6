"""The check that a custom network evaluates each image on its own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import errors
from rrd_jax.networks.contract import Network, network_variables
from rrd_jax.networks.custom import CustomNetwork

_IMAGES, _PART = 4, 2
# Outputs may differ by this share of the largest output, since kernels depend on the batch size.
_TOLERANCE = 1e-3
# Otherwise by this multiple of the change that bfloat16's rounding of the images causes.
_SENSITIVITY, _ROUNDING = 16, 2.0**-9
# Deviation of the noise that is added to initial weights, because a classifier may start at 0.
_NOISE = 0.02


def check_independence(
    network: Network, name: str, image_shape: tuple[int, ...], variables: Any = None
) -> None:
    """Compares the outputs of two images alone with those in a larger batch, in evaluation.

    The images have other positions in the larger batch, because the outputs may depend on them.
    Networks of this package are not checked.

    Args:
      network: a network.
      name: the network's name in messages.
      image_shape: (H, W, channels).
      variables: its variables; None for initial weights with noise.

    Raises:
      InputError: logits, embedding or patches of an image depend on the other images of its batch,
        on their number or on the image's position; or outputs are random.
    """
    is_native = type(network).__module__.startswith("rrd_jax.")
    if is_native and not isinstance(network, CustomNetwork):
        return
    if variables is None:
        variables = _random_variables(network, image_shape)
    variables = network_variables(variables)
    # Arrays in files are read.
    variables = jax.tree.map(jnp.asarray, variables)

    @jax.jit
    def evaluate(variables, images):
        outputs = network.apply(variables, images, train=False)
        named = {part: getattr(outputs, part) for part in ("logits", "embedding", "patches")}
        return {
            part: value.astype(jnp.float32)
            for part, value in named.items()
            if not isinstance(value, tuple | None)
        }

    rng = np.random.default_rng(0)
    images = rng.standard_normal((_IMAGES, *image_shape), np.float32)
    full, alone = (jax.device_get(evaluate(variables, x)) for x in (images, images[-_PART:]))
    differing = {
        part: np.abs(full[part][-_PART:] - alone[part]).max()
        for part in full
        # Other checks report values that are not finite.
        if np.isfinite(full[part]).all() and np.isfinite(alone[part]).all()
    }
    differing = {
        part: size
        for part, size in differing.items()
        if size > _TOLERANCE * np.abs(full[part]).max()
    }
    if not differing:
        return
    again = jax.device_get(evaluate(variables, images))
    for part in differing:
        if not np.array_equal(full[part], again[part]):
            raise errors.InputError(
                f"network '{name}' computes other {part} when it is called again with the same"
                " images; in evaluation, do not use random numbers or state outside JAX"
            )
    signs = rng.choice((-1, 1), images.shape)
    changed = jax.device_get(evaluate(variables, np.float32(images * (1 + _ROUNDING * signs))))
    for part, size in differing.items():
        if size > _SENSITIVITY * np.abs(full[part] - changed[part]).max():
            raise errors.InputError(
                f"network '{name}' computes the {part} of an image from the other images of its"
                f" batch, or from its position: outputs differ by {size:.3g} between batches of"
                f" {_PART} and {_IMAGES} images, for values of up to"
                f" {np.abs(full[part]).max():.3g}; in evaluation, use"
                " running statistics, such as use_running_average=True of a batch norm, and no mean"
                " over the batch"
            )


def _random_variables(network: Network, image_shape: tuple[int, ...]) -> Any:
    """Returns initial variables with noise, or the weights that the network was created with."""
    if (weights := getattr(network, "weights", None)) is not None:
        return weights

    def create(key):
        images = jnp.zeros((1, *image_shape), jnp.float32)
        variables = {"batch_stats": {}, **network.init(key, images, train=False)}
        leaves, structure = jax.tree.flatten(variables["params"])
        keys = jax.random.split(key, len(leaves))
        noisy = [
            leaf + _NOISE * jax.random.normal(k, leaf.shape, leaf.dtype)
            for k, leaf in zip(keys, leaves, strict=True)
        ]
        return variables | {"params": structure.unflatten(noisy)}

    return jax.jit(create)(jax.random.key(0))
