"""Config fields that reduce the memory of a train step."""

from collections.abc import Iterator, Mapping
from typing import Any

from rrd_jax import errors, networks
from rrd_jax.objectives import rrd
from rrd_jax.objectives.parts import memory
from rrd_jax.training.recipe import Recipe

# The part of `rrd.uses` that has the memory of an option.
_MEMORY_OF = {"queue_size": "images", "patch_queue_size": "memory"}


def for_state(recipe: Recipe, devices: int) -> Iterator[str]:
    """Yields the fields that reduce the memory of the state.

    Args:
      recipe: recipe of the run.
      devices: number of devices of the mesh.
    """
    for name, options in _options(recipe):
        if options.get("memory", "fifo") == "fifo":
            yield from (f"a smaller objectives.{name}.{row}" for row in _sizes(options))
        else:
            # A bank has a row for every training image.
            yield f"objectives.{name}.memory=fifo"
    if devices > 1 and not recipe.training.shard_parameters:
        yield "shard_parameters=True"


def for_activations(recipe: Recipe, devices: int) -> Iterator[str]:
    """Yields the fields that reduce the memory of feature maps and of products with a memory.

    Args:
      recipe: recipe of the run.
      devices: number of devices of the mesh.
    """
    training = recipe.training
    if training.batch_size > devices:
        yield "a smaller train.batch_size"
    if training.batch_size // training.accumulate > devices:
        yield "a larger train.accumulate"
    if mode := _stronger_remat(recipe):
        yield f"train.remat={mode}"
    for name, options in _options(recipe):
        if options.get("memory", "fifo") != "fifo":
            yield from (f"a smaller objectives.{name}.{row}" for row in _sizes(options))
        if options.get("chunk") is not None:
            yield f"objectives.{name}.chunk=None"


def _stronger_remat(recipe: Recipe) -> str:
    """Returns the strongest train.remat that the student supports; "" if none is stronger.

    "all" comes first: recomputing only the layers between a ResNet's convolutions saves little
    memory, because the results of its blocks depend on each other and are all kept.
    """
    for mode in ("all", "convolutions"):
        if mode == recipe.training.remat:
            break
        try:
            networks.remat(recipe.student, mode)
        except errors.InputError:
            # The network does not support this mode.
            continue
        return mode
    return ""


def _options(recipe: Recipe) -> Iterator[tuple[str, dict]]:
    """Yields the name and the options of each built-in objective."""
    for choice in recipe.training.objectives:
        if choice.objective is None:
            yield choice.name, dict(choice.options)


def _sizes(options: Mapping[str, Any]) -> list[str]:
    """Returns the options that set the number of rows of a memory that the objective has."""
    names = [name for name in memory.SIZES if name in options]
    if "patch_queue_size" in options:
        parts = rrd.uses(options)
        names = [name for name in names if _MEMORY_OF[name] in parts]
    return names
