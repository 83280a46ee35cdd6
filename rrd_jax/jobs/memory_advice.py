"""Fields with which a step needs less memory, by what of it they lessen."""

from collections.abc import Iterator

from rrd_jax import errors, networks
from rrd_jax.training.recipe import Recipe

_ROWS = ("queue_size", "negatives")  # options of objectives that are rows of a memory


def of_state(recipe: Recipe, devices: int) -> Iterator[str]:
    """Those that lessen the state.

    Args:
      recipe: what is trained.
      devices: of the mesh.
    """
    for name, options in _options(recipe):
        if options.get("memory", "fifo") == "fifo":
            yield from (f"a smaller objectives.{name}.{row}" for row in _ROWS if row in options)
        else:
            yield f"objectives.{name}.memory=fifo"  # in place of all images
    if devices > 1 and not recipe.training.shard_parameters:
        yield "shard_parameters=True"


def on_the_way(recipe: Recipe, devices: int) -> Iterator[str]:
    """Those that lessen what a step makes on the way: a network's maps, products with a memory.

    Args:
      recipe: what is trained.
      devices: of the mesh.
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
    """The most of the student that can be computed twice; "" where no more of it can.

    Between a ResNet's convolutions are its blocks' results, which depend on each other: computed
    again they are all there at once, and hardly anything is saved.
    """
    for how in ("all", "convolutions"):
        if how == recipe.training.remat:
            break
        try:
            networks.remat(recipe.student, how)
        except errors.InputError:
            continue  # of that network it cannot
        return how
    return ""


def _options(recipe: Recipe) -> Iterator[tuple[str, dict]]:
    """Of each objective that came by name."""
    for choice in recipe.training.objectives:
        if choice.objective is None:
            yield choice.name, dict(choice.options)
