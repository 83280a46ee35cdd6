"""Recipes and states of the stage that some objectives train before distillation."""

import dataclasses

import optax

from rrd_jax import errors, networks
from rrd_jax.objectives import Objective
from rrd_jax.training.choices import AlignmentChoice, CacheChoice
from rrd_jax.training.recipe import Recipe, Term
from rrd_jax.training.state import TrainState


def stage_recipe(recipe: Recipe, name: str) -> Recipe:
    """Returns the recipe of the stage of one of a recipe's objectives.

    The stage trains the values that distillation freezes, so the objective's `params` and `frozen`
    are swapped.
    """
    objective = recipe.terms[name].objective
    stage = objective.stage

    def swapped(state):
        return state._replace(params=state.frozen, frozen=state.params)

    def init(key, student, teacher):
        return swapped(objective.init(key, student, teacher))

    def loss(state, student, teacher, batch):
        return stage.loss(swapped(state), student, teacher, batch)

    rate = recipe.first_rate if stage.learning_rate is None else stage.learning_rate
    return dataclasses.replace(
        recipe,
        training=dataclasses.replace(
            recipe.training,
            label=f"{name}, stage before distillation",
            epochs=stage.epochs,
            ema=0.0,
            teacher_cache=CacheChoice(use="off"),
            alignment=AlignmentChoice(),
        ),
        terms={name: Term(Objective(init, loss, taps=objective.taps))},
        schedule=optax.constant_schedule(rate),
        fixed="classifier" if stage.student else "student",
    )


def state_after_stage(
    start: TrainState, end: TrainState, *, name: str, trains_student: bool
) -> TrainState:
    """Returns the state before the first step of distillation.

    Args:
      start: the state as created, before the stage.
      end: the state at the end of the stage.
      name: name of the stage's objective.
      trains_student: whether the stage trained the student too.
    """
    state = start.replace(frozen=start.frozen | {name: end.params["objectives"][name]})
    if not trains_student:
        return state
    student = end.params["student"]
    average = {"params": student, "batch_stats": end.batch_stats} if start.ema else ()
    return state.replace(
        params=start.params | {"student": student}, batch_stats=end.batch_stats, ema=average
    )


def fixed_parameters(recipe: Recipe, image_shape: tuple[int, int, int]) -> tuple[str, ...]:
    """Returns the path of the parameters that a recipe's optimizer does not update, or ().

    Raises:
      InputError: the classifier is fixed, but the network does not report it.
    """
    if recipe.fixed == "classifier":
        classifier = networks.summarize(recipe.student, image_shape).classifier
        if not classifier:
            raise errors.InputError(
                f"'{recipe.training.label}' trains the student without its classifier, which"
                f" network '{recipe.training.network.model}' does not report; return the"
                " classifier's parameters as 'head', {'kernel', 'bias'}, in its Outputs"
            )
        return ("student", *classifier)
    return (recipe.fixed,) if recipe.fixed else ()
