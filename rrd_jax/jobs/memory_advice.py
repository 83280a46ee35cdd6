"""Config fields that reduce the memory of a train step."""

from collections.abc import Iterator

from rrd_jax import errors, networks
from rrd_jax.training.recipe import Recipe

_ROWS = ("queue_size", "negatives")  # options of objectives that are rows of a memory


def for_state(recipe: Recipe, devices: int) -> Iterator[str]:
    """Yields the fields that reduce the state.

    Args:
      recipe: of the run.
      devices: number of devices of the mesh.
    """
    for name, options in _options(recipe):
        if options.get("memory", "fifo") == "fifo":
            yield from (f"a smaller objectives.{name}.{row}" for row in _ROWS if row in options)
        else:
            yield f"objectives.{name}.memory=fifo"  # A bank holds a row for every image.
    if devices > 1 and not recipe.training.shard_parameters:
        yield "shard_parameters=True"


def for_activations(recipe: Recipe, devices: int) -> Iterator[str]:
    """Yields the fields that reduce feature maps and products with a memory.

    Args:
      recipe: of the run.
      devices: number of devices of the mesh.
    """
    training = recipe.training
    if training.batch_size > devices:
        yield "a smaller train.batch_size"
    if training.batch_size // training.accumulate > devices:
        yield "a larger train.accumulate"
    if how := _recomputed(recipe):
        yield f"train.remat={how}"
    for name, options in _options(recipe):
        if options.get("memory", "fifo") != "fifo":
            yield from (f"a smaller objectives.{name}.{row}" for row in _ROWS if row in options)
        if options.get("chunk") is not None:
            yield f"objectives.{name}.chunk=None"


def _recomputed(recipe: Recipe) -> str:
    """Returns the strongest train.remat that the student supports; "" if none is stronger.

    "all" comes first: recomputing what lies between a ResNet's convolutions saves hardly anything,
    because the results of its blocks depend on each other and all exist at once.
    """
    for how in ("all", "convolutions"):
        if how == recipe.training.remat:
            break
        try:
            networks.remat(recipe.student, how)
        except errors.InputError:
            continue  # The network does not support it.
        return how
    return ""


def _options(recipe: Recipe) -> Iterator[tuple[str, dict]]:
    """Yields the options of each objective that was chosen by name."""
    for choice in recipe.training.objectives:
        if choice.objective is None:
            yield choice.name, dict(choice.options)
