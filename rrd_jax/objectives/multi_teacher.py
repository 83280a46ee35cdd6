"""Averages of an objective over several teachers."""

from collections.abc import Sequence
from typing import Any

import jax

from rrd_jax import errors
from rrd_jax.networks.jaxprs import reached
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

    def by_teacher(loss: Loss, state, student, teacher, batch):
        total, parts, memories = 0.0, [], []
        for i, (weight, outputs) in enumerate(zip(weights, teacher.members, strict=True)):
            state_i = ObjectiveState(*(part[f"teacher{i}"] for part in state))
            losses, memory = loss(state_i, student, outputs, batch)
            total += weight * losses
            parts.append(losses)
            memories.append(memory)
        return total, _by_teacher(memories), parts

    def mean_of(loss: Loss) -> Loss:
        return lambda *arguments: by_teacher(loss, *arguments)[:2]

    def reported(state, student, teacher, batch):
        total, memory, parts = by_teacher(objective.loss, state, student, teacher, batch)
        # All teachers have the same, averaged logits.
        is_separate = _reads_features(objective, state, student, teacher, batch)
        return total, memory, parts if is_separate else []

    def taps(student, teacher):
        return [pair for outputs in teacher.members for pair in objective.taps(student, outputs)]

    stage = objective.stage
    return objective._replace(
        init=init,
        loss=mean_of(objective.loss),
        by_teacher=reported,
        floor=None,
        # Each teacher has a separate head.
        head=None,
        stage=stage and stage._replace(loss=mean_of(stage.loss)),
        taps=objective.taps and taps,
    )


def _reads_features(objective: Objective, state: ObjectiveState, *arguments: Any) -> bool:
    """Returns True if the loss reads more of a teacher's Outputs than the logits."""
    student, teacher, batch = arguments
    state_of_first = ObjectiveState(*(part["teacher0"] for part in state))
    outputs = teacher.members[0]
    features = {name: getattr(outputs, name) for name in outputs._fields if name != "logits"}

    def loss(features):
        return objective.loss(state_of_first, student, outputs._replace(**features), batch)[0]

    program = jax.make_jaxpr(loss)(features).jaxpr
    return any(reached(program, [1] * len(program.invars)))


def _by_teacher(parts: Sequence) -> dict:
    return {f"teacher{i}": part for i, part in enumerate(parts)}
