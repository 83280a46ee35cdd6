"""A network as StableHLO, from which other formats are made."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.exports.interface import Exportable, Options
from rrd_jax.exports.library_output import reason


def lower(
    exportable: Exportable, options: Options, platforms: Sequence[str], batch: Any
) -> jax.export.Exported:
    """images [B, H, W, channels] -> `Outputs`, with the weights inside, as StableHLO.

    Args:
      exportable: the network.
      options: of these, fold and embed_preprocessing.
      platforms: that it is for.
      batch: B, a number or symbolic; a symbolic one need not be known to the network's own code.

    Raises:
      InputError: the network computes something that has no form outside this process.
    """
    shape = (batch, *exportable.about.preprocessing.image_shape)
    images = jax.ShapeDtypeStruct(shape, jnp.uint8 if options.embed_preprocessing else jnp.float32)
    function = exportable.function(options)
    try:
        return _export(function, images, platforms)
    except Exception as error:
        if isinstance(batch, int):
            raise _refusal(exportable, error) from error
    # Code such as `x.reshape(len(x), -1)` needs a number. Images do not know of each other, so the
    # network is one for each of them.
    each = jax.vmap(lambda image: jax.tree.map(lambda y: y[0], function(image[None])))
    try:
        return _export(each, images, platforms)
    except Exception as error:
        raise _refusal(exportable, error) from error


def module(exportable: Exportable, options: Options, platform: str) -> tuple[Any, tuple[str, ...]]:
    """The same for one image, as a module of jaxlib's MLIR, and the names of its outputs in order.

    Raises:
      InputError: the network cannot be lowered.
    """
    images = jnp.zeros((1, *exportable.about.preprocessing.image_shape), jnp.float32)
    try:
        traced = jax.jit(exportable.function(options)).trace(images)
        lowered = traced.lower(lowering_platforms=(platform,))
    except Exception as error:
        raise _refusal(exportable, error) from error
    return lowered.compiler_ir("stablehlo"), _names(lowered.out_tree)


def shapes(exportable: Exportable, images: jax.Array) -> dict[str, jax.ShapeDtypeStruct]:
    """What it computes from images, as shapes."""
    return jax.eval_shape(exportable.function(Options(fold=False)), images)


def outputs_of(exported: jax.export.Exported) -> tuple[str, ...]:
    """The names of what it computes, in its order."""
    return _names(exported.out_tree)


def _names(tree: Any) -> tuple[str, ...]:
    names = jax.tree.unflatten(tree, range(tree.num_leaves))
    return tuple(sorted(names, key=names.get))


def _export(function: Any, images: jax.ShapeDtypeStruct, platforms: Sequence[str]):
    return jax.export.export(jax.jit(function), platforms=platforms)(images)


def _refusal(exportable: Exportable, error: Exception) -> errors.UnfitError:
    return errors.UnfitError(
        f"network '{exportable.about.model}' cannot be written as StableHLO: {reason(error)}"
    )
