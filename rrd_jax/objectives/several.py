"""One objective against several teachers."""

from collections.abc import Callable, Sequence

import jax

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, ObjectiveState


def averaged(name: str, objective: Objective, weights: Sequence[float]) -> Objective:
    """An objective's losses against each of several teachers, averaged.

    All teachers show their averaged logits, so what compares logits compares with those. What
    compares features, or relations to a memory, does so with each teacher, by adapters and
    memories of its own; RRD's loss is linear in the teacher's relations, so that this averages
    them.

    Args:
      name: for the message of an error.
      objective: against one teacher.
      weights: of the teachers; they add up to 1.

    Raises:
      InputError: the objective classifies with its teacher's classifier, of which there is one.
    """
    if objective.predict:
        raise errors.InputError(
            f"objective '{name}' takes over its teacher's classifier, so it takes one teacher"
        )

    def init(key, student, teacher):
        own = [
            objective.init(jax.random.fold_in(key, i), student, one)
            for i, one in enumerate(teacher.members)
        ]
        return ObjectiveState(*(_named(part) for part in zip(*own, strict=True)))

    def mean_of(loss: Callable) -> Callable:
        def mean(state, student, teacher, batch):
            total, memories = 0.0, []
            for i, (weight, one) in enumerate(zip(weights, teacher.members, strict=True)):
                own = ObjectiveState(*(part[f"teacher{i}"] for part in state))
                losses, memory = loss(own, student, one, batch)
                total += weight * losses
                memories.append(memory)
            return total, _named(memories)

        return mean

    def taps(student, teacher):
        return [pair for one in teacher.members for pair in objective.taps(student, one)]

    stage = objective.stage
    return objective._replace(
        init=init,
        loss=mean_of(objective.loss),
        stage=stage and stage._replace(loss=mean_of(stage.loss)),
        taps=objective.taps and taps,
    )


def _named(parts: Sequence) -> dict:
    return {f"teacher{i}": part for i, part in enumerate(parts)}
