"""Averages of an objective over several teachers."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.networks.contract import mean_logits
from rrd_jax.networks.jaxprs import reached
from rrd_jax.objectives.base import Loss, Objective, ObjectiveState
from rrd_jax.objectives.batch import Batch

# The part of the state that chooses the teachers that are dropped.
_DROP = "drop"


def averaged(
    name: str, objective: Objective, weights: Sequence[float], *, drop: float = 0.0
) -> Objective:
    """Returns an objective that averages its losses over several teachers.

    An objective on features, or on relations to a memory, is evaluated for each teacher with
    separate adapters and memories. RRD's loss is linear in the teacher's relations, so the mean of
    its losses is the loss with averaged relations. An objective on logits compares the student with
    the teachers' averaged logits.

    Teachers can be dropped in training, as in UNIC (arXiv 2408.05088): for each image, those with
    the largest loss l are kept, and each other one with probability 1 - drop. The loss of an image
    is B sum_i k_i w_i l_i / sum k w, with k 1 for kept teachers and 0 for others, and the second
    sum over all teachers and images of the batch; its mean is the weighted mean of the kept losses.

    Args:
      name: name of the objective, for error messages.
      objective: the objective for one teacher.
      weights: weight of each teacher, with sum 1; 0 for a teacher that the objective ignores.
      drop: the probability with which a teacher is dropped, in [0, 1).

    Raises:
      InputError: the objective uses its teacher's classifier for prediction.
    """
    if objective.predict:
        raise errors.InputError(
            f"objective '{name}' reuses its teacher's classifier, but there are"
            f" {len(weights)} teachers; configure one teacher, or choose another objective"
        )
    shares = {i: weight for i, weight in enumerate(weights) if weight}

    def init(key, student, teacher):
        states = {
            f"teacher{i}": objective.init(jax.random.fold_in(key, i), student, outputs)
            for i, outputs in _member_shapes(teacher, shares).items()
        }
        params, frozen, memory = (
            {part: getattr(state, field) for part, state in states.items()}
            for field in ObjectiveState._fields
        )
        if drop:
            # Held-out images have no index, and their teachers are not dropped.
            frozen[_DROP] = jax.random.key_data(jax.random.fold_in(key, len(weights)))
            memory[_DROP] = jnp.int32(0)
        return ObjectiveState(params, frozen, memory)

    def by_teacher(loss: Loss, state, student, teacher, batch, drop=0.0):
        parts, memory = {}, dict(state.memory)
        for i, outputs in _members(teacher, shares).items():
            state_i = _of_teacher(state, i)
            member_batch = _of_member(batch, i, shares)
            parts[i], memory[f"teacher{i}"] = loss(state_i, student, outputs, member_batch)
        if drop and batch.index is not None:
            memory[_DROP] += 1
            key = jax.random.fold_in(
                jax.random.wrap_key_data(state.frozen[_DROP]), state.memory[_DROP]
            )
            return _kept_mean(name, parts, shares, key, batch.index, drop), memory, parts
        return sum(weight * parts[i] for i, weight in shares.items()), memory, parts

    def mean_of(loss: Loss, drop: float) -> Loss:
        return lambda *arguments: by_teacher(loss, *arguments, drop=drop)[:2]

    def reported(state, student, teacher, batch):
        arguments = state, student, teacher, batch
        total, memory, parts = by_teacher(objective.loss, *arguments, drop=drop)
        # Teachers with the same, averaged logits have the same losses.
        is_separate = _reads_features(objective, shares, *arguments)
        return total, memory, parts if is_separate else {}

    def taps(student, teacher):
        members = _member_shapes(teacher, shares).values()
        return [pair for outputs in members for pair in objective.taps(student, outputs)]

    def measure(state, teacher, labels):
        frozen = dict(state.frozen)
        for i in shares:
            measured = objective.measure(_of_teacher(state, i), teacher.members[i], labels)
            frozen[f"teacher{i}"] = measured.frozen
        return state._replace(frozen=frozen)

    stage = objective.stage
    return objective._replace(
        init=init,
        loss=mean_of(objective.loss, drop),
        by_teacher=reported,
        floor=None,
        # Each teacher has separate heads.
        head=None,
        patch_head=None,
        stage=stage and stage._replace(loss=mean_of(stage.loss, 0.0)),
        taps=objective.taps and taps,
        measure=objective.measure and measure,
    )


def _members(teacher: Any, shares: Mapping[int, float]) -> dict[int, Any]:
    """Returns the Outputs of the teachers that an objective compares, with averaged logits."""
    members = {i: teacher.members[i] for i in shares}
    logits = mean_logits([*members.values()], [*shares.values()])
    return {i: outputs._replace(logits=logits) for i, outputs in members.items()}


def _of_member(batch: Batch, i: int, shares: Mapping[int, float]) -> Batch:
    """Returns the batch with the outputs of teacher i for the second view, if there is one."""
    if batch.second is None:
        return batch
    second = batch.second._replace(teacher=_members(batch.second.teacher, shares)[i])
    return batch._replace(second=second)


def _member_shapes(teacher: Any, shares: Mapping[int, float]) -> dict[int, Any]:
    """Returns the Outputs of `_members` as shapes."""
    return jax.eval_shape(lambda teacher: _members(teacher, shares), teacher)


def _of_teacher(state: ObjectiveState, i: int) -> ObjectiveState:
    return ObjectiveState(*(part[f"teacher{i}"] for part in state))


def _kept_mean(
    name: str,
    losses: Mapping[int, jax.Array],
    weights: Mapping[int, float],
    key: jax.Array,
    index: jax.Array,
    drop: float,
) -> jax.Array:
    """Returns the losses [B] of the teachers that are kept for each image; see `averaged`."""
    if any(loss.shape != index.shape for loss in losses.values()):
        raise errors.InputError(
            f"objective '{name}' has one loss for the whole batch, so that no teacher can be"
            " dropped for an image; set train.drop_teachers to 0"
        )
    # The draws of an image depend on its index, not on the other images or the devices.
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
    draws = jax.vmap(lambda key: jax.random.uniform(key, (len(losses),)))(keys)
    values = jnp.stack([losses[i] for i in weights], axis=-1)
    is_largest = values >= jnp.max(values, axis=-1, keepdims=True)
    used = jnp.where(is_largest | (draws >= drop), jnp.asarray([*weights.values()])[None], 0.0)
    return len(index) * jnp.sum(used * values, axis=-1) / jnp.sum(used)


def _reads_features(
    objective: Objective, shares: Mapping[int, float], state: ObjectiveState, *arguments: Any
) -> bool:
    """Returns True if the loss reads more of a teacher's Outputs than the logits."""
    student, teacher, batch = arguments
    first, outputs = next(iter(_members(teacher, shares).items()))
    state_of_first = _of_teacher(state, first)
    batch = _of_member(batch, first, shares)
    features = {name: getattr(outputs, name) for name in outputs._fields if name != "logits"}

    def loss(features):
        return objective.loss(state_of_first, student, outputs._replace(**features), batch)[0]

    program = jax.make_jaxpr(loss)(features).jaxpr
    return any(reached(program, [1] * len(program.invars)))
