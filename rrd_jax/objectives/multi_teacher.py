"""Averages of an objective over several teachers."""

from collections.abc import Sequence

import jax

from rrd_jax import errors
from rrd_jax.objectives.base import Loss, Objective, ObjectiveState


def averaged(name: str, objective: Objective, weights: Sequence[float]) -> Objective:
    """Returns an objective that averages its losses over several teachers.

    Each member's logits are the average over all teachers, so an objective on logits compares the
    student with the averaged logits. An objective on features, or on relations to a memory, is
    evaluated for each teacher with separate adapters and memories. RRD's loss is linear in the
    teacher's relations, so the mean of its losses is the loss with averaged relations.

    Args:
      name: name of the objective, for error messages.
      objective: the objective for one teacher.
      weights: weight of each teacher, with sum 1.

    Raises:
      InputError: the objective uses its teacher's classifier for prediction.
    """
    if objective.predict:
        raise errors.InputError(
            f"objective '{name}' reuses its teacher's classifier, but there are"
            f" {len(weights)} teachers; configure one teacher, or choose another objective"
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
        # Each teacher has a separate head.
        head=None,
        stage=stage and stage._replace(loss=mean_of(stage.loss)),
        taps=objective.taps and taps,
    )


def _by_teacher(parts: Sequence) -> dict:
    return {f"teacher{i}": part for i, part in enumerate(parts)}
