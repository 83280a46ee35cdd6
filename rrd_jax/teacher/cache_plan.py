"""The decision whether a run caches the teacher's embeddings, and where."""

from collections.abc import Mapping
from typing import NamedTuple

from rrd_jax import errors, parallel
from rrd_jax.objectives import Objective
from rrd_jax.teacher.cache import EmbeddingCache
from rrd_jax.training.recipe import Recipe, Training

_HOST_SHARE = 0.25  # of a host's memory, for embeddings; other programs need memory too


class Plan(NamedTuple):
    """The decision whether and where a run caches embeddings.

    Attributes:
      place: "device", "host" or "file"; "" if the teacher runs at each step.
      reason: a line for the log.
    """

    place: str
    reason: str


def plan(cache: EmbeddingCache, recipe: Recipe, began: bool | None) -> Plan:
    """Decides whether and where to cache embeddings.

    Args:
      cache: of the teacher.
      recipe: its `teacher_cache` is on or auto.
      began: whether a resumed run began with the cache, so that its numbers stay the same; None
        for a new run.

    Raises:
      InputError: the cache is on, but not possible.
    """
    training = recipe.training
    augment, forced = training.augment, training.teacher_cache.use == "on"
    place, obstacle = "", _obstacle(training, recipe.objectives)
    if not obstacle:
        place, obstacle = _choose_place(cache, training)
    if obstacle and forced:
        raise _refusal(obstacle)
    if obstacle:
        return Plan("", f"the teacher runs at each step: {obstacle}")
    pays = forced or training.epochs > augment.views or cache.exists(augment)
    if not (parallel.as_main(pays) if began is None else began):
        return Plan(
            "",
            f"the teacher runs at each step: caching all {augment.views} views of an image pays"
            f" for more than {augment.views} epochs",
        )
    space = cache.space(augment)[place]
    return Plan(
        place,
        f"the teacher does not run: its embeddings of all {augment.views} views of each image are"
        f" cached, {space.size / 1e9:.2f} GB {space.where}",
    )


def _choose_place(cache: EmbeddingCache, training: Training) -> tuple[str, str]:
    """Returns (the place for embeddings, the reason why there is none); one of them is ""."""
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
        needed, free, where = space[place].needed, space[place].free, space[place].where
        if parallel.as_main(needed <= free * shares[place]):
            return place, ""
    return "", (
        f"its embeddings of all views would need {needed / 1e9:.2f} GB of the {free / 1e9:.2f} GB"
        f" that are free {where}"
    )


def check(training: Training, objectives: Mapping[str, Objective]) -> None:
    """Raises an InputError if the cache is on but not possible, whatever the memory."""
    obstacle, choice = _obstacle(training, objectives), training.teacher_cache
    if obstacle and choice.use == "on":
        raise _refusal(obstacle)
    if choice.use != "off" and choice.place in ("host", "file") and training.augment.choose:
        raise errors.InputError(
            f"teacher.cache_place is {choice.place}, but the step draws the views: set"
            " data.views.count, or leave teacher.cache_place out"
        )


def _refusal(obstacle: str) -> errors.InputError:
    return errors.InputError(f"teacher.cache is on, but {obstacle}; set it to auto")


def _obstacle(training: Training, objectives: Mapping[str, Objective]) -> str:
    """Returns why embeddings cannot replace the teacher; "" if they can."""
    if training.mix:
        return "each image is mixed with another"
    if not training.augment.views:
        return "no image is shown the same way twice, which data.views.count changes"
    for name, objective in objectives.items():
        if objective.needs_teacher and objective.needs_maps:
            return f"'{name}' compares maps"
    return ""
