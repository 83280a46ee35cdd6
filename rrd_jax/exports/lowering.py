"""Lowering of networks to StableHLO, the source of several other formats."""

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
    """Lowers the function images [B, H, W, channels] -> `Outputs` with its weights to StableHLO.

    Args:
      exportable: the network.
      options: `fold` and `embed_preprocessing`; all other options are ignored.
      platforms: target platforms.
      batch: B, an integer or a symbolic dimension; the code of a custom network need not support
        symbolic dimensions.

    Raises:
      InputError: the network cannot be lowered, for example because of a Python callback.
    """
    shape = (batch, *exportable.about.preprocessing.image_shape)
    images = jax.ShapeDtypeStruct(shape, jnp.uint8 if options.embed_preprocessing else jnp.float32)
    function = exportable.function(options)
    try:
        return _export(function, images, platforms)
    except Exception as error:
        if isinstance(batch, int):
            raise _unfit_error(exportable, error) from error
    # Code such as `x.reshape(len(x), -1)` needs a number. Images do not affect one another, so the
    # network for a single image can be vectorized.
    vectorized = jax.vmap(lambda image: jax.tree.map(lambda y: y[0], function(image[None])))
    try:
        return _export(vectorized, images, platforms)
    except Exception as error:
        raise _unfit_error(exportable, error) from error


def module(exportable: Exportable, options: Options, platform: str) -> tuple[Any, tuple[str, ...]]:
    """Lowers the network for one image, and returns an MLIR module and the names of the outputs.

    Raises:
      InputError: the network cannot be lowered.
    """
    images = jnp.zeros((1, *exportable.about.preprocessing.image_shape), jnp.float32)
    try:
        traced = jax.jit(exportable.function(options)).trace(images)
        lowered = traced.lower(lowering_platforms=(platform,))
    except Exception as error:
        raise _unfit_error(exportable, error) from error
    return lowered.compiler_ir("stablehlo"), _names(lowered.out_tree)


def shapes(exportable: Exportable, images: jax.Array) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of the outputs for a batch of images."""
    return jax.eval_shape(exportable.function(Options(fold=False)), images)


def outputs_of(exported: jax.export.Exported) -> tuple[str, ...]:
    """Returns the names of the outputs, in order."""
    return _names(exported.out_tree)


def _names(tree: Any) -> tuple[str, ...]:
    names = jax.tree.unflatten(tree, range(tree.num_leaves))
    return tuple(sorted(names, key=names.get))


def _export(function: Any, images: jax.ShapeDtypeStruct, platforms: Sequence[str]):
    return jax.export.export(jax.jit(function), platforms=platforms)(images)


def _unfit_error(exportable: Exportable, error: Exception) -> errors.UnfitError:
    return errors.UnfitError(
        f"network '{exportable.about.model}' cannot be written as StableHLO: {reason(error)}; use"
        " --format=safetensors, which stores only the weights"
    )
