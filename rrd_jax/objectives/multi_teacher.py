"""One objective against several teachers."""

from collections.abc import Sequence

import jax

from rrd_jax import errors
from rrd_jax.objectives.base import Loss, Objective, ObjectiveState


def averaged(name: str, objective: Objective, weights: Sequence[float]) -> Objective:
    """An objective's losses against each of several teachers, averaged.

    All teachers show their averaged logits, so an objective on logits compares with those. One on
    features, or on relations to a memory, compares with each teacher, through separate adapters
    and memories; RRD's loss is linear in the teacher's relations, so this averages them.

    Args:
      name: the objective's, for the message of an error.
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
        states = [
            objective.init(jax.random.fold_in(key, i), student, outputs)
            for i, outputs in enumerate(teacher.members)
        ]
        return ObjectiveState(*(_by_teacher(part) for part in zip(*states, strict=True)))

    def mean_of(loss: Loss) -> Loss:
        def mean(state, student, teacher, batch):
            total, memories = 0.0, []
            for i, (weight, outputs) in enumerate(zip(weights, teacher.members, strict=True)):
                state_i = ObjectiveState(*(part[f"teacher{i}"] for part in state))
                losses, memory = loss(state_i, student, outputs, batch)
                total += weight * losses
                memories.append(memory)
            return total, _by_teacher(memories)

        return mean

    def taps(student, teacher):
        return [pair for outputs in teacher.members for pair in objective.taps(student, outputs)]

    stage = objective.stage
    return objective._replace(
        init=init,
        loss=mean_of(objective.loss),
        floor=None,
        head=None,  # each has its own
        stage=stage and stage._replace(loss=mean_of(stage.loss)),
        taps=objective.taps and taps,
    )


def _by_teacher(parts: Sequence) -> dict:
    return {f"teacher{i}": part for i, part in enumerate(parts)}
