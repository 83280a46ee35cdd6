"""Decisions about the teacher cache: whether a run caches embeddings, and in which memory."""

from collections.abc import Mapping
from typing import NamedTuple

from rrd_jax import errors, parallel
from rrd_jax.objectives import Objective
from rrd_jax.teacher.cache import EmbeddingCache, Space
from rrd_jax.training.recipe import Recipe, Training

# The share of a host's free memory for embeddings; other programs need memory too.
_HOST_SHARE = 0.25


class Plan(NamedTuple):
    """The decision about the teacher cache of a run.

    Attributes:
      place: the place of the embeddings, "device", "host" or "file"; "" without a cache.
      reason: a line for the log.
    """

    place: str
    reason: str


def plan(cache: EmbeddingCache, recipe: Recipe, was_cached: bool | None) -> Plan:
    """Decides whether and where a run caches embeddings.

    Args:
      cache: the teacher's cache.
      recipe: the run's recipe; its `teacher_cache` is on or auto.
      was_cached: whether a resumed run has used the cache so far, to keep its numbers; None for a
        new run.

    Raises:
      InputError: the cache is on, but not possible.
    """
    training = recipe.training
    augment, forced = training.augment, training.teacher_cache.use == "on"
    place, obstacle = "", _obstacle(training, recipe.objectives)
    if not obstacle:
        place, obstacle = _choose_place(cache, training)
    if obstacle and forced:
        raise _obstacle_error(obstacle)
    if obstacle:
        return Plan("", f"teacher cache off: {obstacle}")
    is_worthwhile = forced or training.epochs > augment.views or cache.exists(augment)
    if not (parallel.broadcast_from_main(is_worthwhile) if was_cached is None else was_cached):
        return Plan(
            "",
            f"teacher cache off: caching all {augment.views} views of an image pays off only with"
            f" more than {augment.views} epochs",
        )
    space = cache.space(augment)[place]
    return Plan(
        place,
        f"teacher cache on: {_contents(cache)} of {augment.views} views per image,"
        f" {space.size / 1e9:.2f} GB {space.location}",
    )


def _choose_place(cache: EmbeddingCache, training: Training) -> tuple[str, str]:
    """Returns (place, "") if a place has enough memory, otherwise ("", reason)."""
    augment, choice = training.augment, training.teacher_cache
    share = 1.0 if choice.use == "on" else 0.5
    shares = {
        "device": share,
        "host": share if choice.place == "host" else _HOST_SHARE,
        "file": 1.0,
    }
    places = ["device"] if augment.choose else list(shares)
    space = cache.space(augment)
    for place in places if choice.place == "auto" else [choice.place]:
        needed, free, location = space[place].needed, space[place].free, space[place].location
        if parallel.broadcast_from_main(needed <= free * shares[place]):
            return place, ""
    return "", (
        f"{_contents(cache)} of all views need {needed / 1e9:.2f} GB, with {free / 1e9:.2f} GB free"
        f" {location}{_alternatives(cache, training, space)}"
    )


def _contents(cache: EmbeddingCache) -> str:
    return "embeddings and patches" if cache.has_patches else "embeddings"


def _alternatives(cache: EmbeddingCache, training: Training, space: Mapping[str, Space]) -> str:
    """Returns the types and places of rows with patches that fit, for messages."""
    if not cache.has_patches:
        return ""
    places = ["device"] if training.augment.choose else list(space)
    fitting = []
    for dtype, size in cache.bytes_by_dtype(training.augment).items():
        share = size / space["host"].size
        place = next((p for p in places if space[p].size * share <= space[p].free), "")
        if place:
            fields = f"teacher.cache_dtype={dtype} and teacher.cache_place={place}"
            fitting.append(f"{fields} ({size / 1e9:.2f} GB)")
    # Train steps draw the views of crop_flip, whose number is not that of data.views.count.
    views = [] if training.augment.choose else ["a smaller data.views.count"]
    advice = [*fitting, *views, "a smaller teacher.image_size"]
    return f"; set {', or '.join(advice)}"


def check(training: Training, objectives: Mapping[str, Objective]) -> None:
    """Raises an InputError if the cache is on but not possible, regardless of memory."""
    obstacle, choice = _obstacle(training, objectives), training.teacher_cache
    if obstacle and choice.use == "on":
        raise _obstacle_error(obstacle)
    if choice.use != "off" and choice.place in ("host", "file") and training.augment.choose:
        raise errors.InputError(
            f"teacher.cache_place is {choice.place}, but train steps draw the views; set"
            " data.views.count, or omit teacher.cache_place"
        )


def _obstacle_error(obstacle: str) -> errors.InputError:
    return errors.InputError(f"teacher.cache is on, but {obstacle}; set teacher.cache=auto")


def _obstacle(training: Training, objectives: Mapping[str, Objective]) -> str:
    """Returns the reason why embeddings cannot replace the teacher; "" if they can."""
    if training.mix:
        return "data.mix mixes each image with another image"
    if not training.augment.views:
        return "views do not repeat unless data.views.count limits them"
    for name, objective in objectives.items():
        if objective.needs_teacher and objective.needs_maps:
            return f"objective '{name}' may read feature maps (needs_maps is True)"
        if objective.needs_second:
            return f"objective '{name}' compares a second view of each image, which is always new"
    return ""
