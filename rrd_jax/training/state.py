"""The train state."""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from rrd_jax import networks, optim
from rrd_jax.objectives import Objective, ObjectiveState, check_teacher, classifier


@flax.struct.dataclass
class TrainState:
    """The values that change during training, as one tree. Checkpoints store this tree.

    Attributes:
      step: [] int32, number of updates so far.
      params: {"student": ..., "objectives": {name: ...}}, all trained parameters.
      batch_stats: the student's running statistics and its other carried variables.
      ema: {"params", "batch_stats"}, the average of the student over the steps; () if the run has
        no average.
      opt_state: Optax state for `params`.
      frozen: {name: ...}, the objectives' constants.
      memory: {name: ...}, the objectives' memories.
      key: a typed PRNG key that never changes; steps fold epoch and example index into it.
      classifier: the objective that replaces the student's classifier; "" for none.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    ema: Any
    opt_state: Any
    frozen: Any
    memory: Any
    key: jax.Array
    classifier: str = flax.struct.field(pytree_node=False, default="")

    @property
    def evaluated(self) -> "TrainState":
        """The state whose parameters are evaluated and exported.

        A schedule-free optimizer evaluates with its average of the parameters, unless the state has
        an average of its own, `ema`.
        """
        if self.ema:
            return self
        params = optim.evaluation_params(self.opt_state, self.params)
        return dataclasses.replace(self, params=params)

    @property
    def student(self) -> dict[str, Any]:
        """The student's variables: the average if the state has one.

        {"params", "batch_stats"}, and under "classifier" the state of the objective that replaces
        the student's classifier.
        """
        network = self.ema or {"params": self.params["student"], "batch_stats": self.batch_stats}
        if not self.classifier:
            return network
        objective = {
            "params": self.params["objectives"][self.classifier],
            "frozen": self.frozen[self.classifier],
            "memory": self.memory[self.classifier],
        }
        return network | {"classifier": objective}

    def objective(self, name: str) -> ObjectiveState:
        """Returns the state of an objective."""
        params = self.params["objectives"][name]
        return ObjectiveState(params, self.frozen[name], self.memory[name])


def create(
    key: jax.Array,
    student: networks.Network,
    objectives: dict[str, Objective],
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    teacher: networks.Network | None = None,
    teacher_variables: Any = None,
    *,
    average: bool = False,
    weights: Mapping[str, jax.Array] | None = None,
) -> TrainState:
    """Creates the initial train state.

    Args:
      key: a typed PRNG key, which determines the whole run.
      student: a network of `networks.create`.
      objectives: objectives by name; each key is derived from the name, so that adding an objective
        does not change the initial state of another.
      optimizer: transformation for the student's and the objectives' parameters together.
      image_shape: (H, W, channels).
      teacher: a network of `networks.create`, or None.
      teacher_variables: the teacher's weights; None if no objective copies the teacher's weights.
      average: whether the state includes an average of the student.
      weights: the student's initial weights by path, such as params/conv1/kernel; parameters
        without an entry are random.

    Raises:
      InputError: an objective needs a teacher, but `teacher` is None.
    """
    check_teacher(objectives, present=teacher is not None)
    student_key, objective_key, step_key = jax.random.split(key, 3)
    variables = networks.init(student, student_key, image_shape)
    if weights:
        variables = _replaced(variables, weights)
    student_outputs = networks.summarize(student, image_shape).outputs
    teacher_outputs = None
    if teacher:
        teacher_outputs = networks.summarize(teacher, image_shape).outputs
        if teacher_variables is not None and teacher_outputs.head:
            head = networks.head(teacher, teacher_variables, image_shape)
            teacher_outputs = teacher_outputs._replace(head=head)
    states = {
        name: objective.init(_fold_in_name(objective_key, name), student_outputs, teacher_outputs)
        for name, objective in objectives.items()
    }
    params = {
        "student": variables["params"],
        "objectives": {name: state.params for name, state in states.items()},
    }
    batch_stats = variables["batch_stats"]
    return TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=batch_stats,
        ema={"params": params["student"], "batch_stats": batch_stats} if average else (),
        opt_state=optimizer.init(params),
        frozen={name: state.frozen for name, state in states.items()},
        memory={name: state.memory for name, state in states.items()},
        key=step_key,
        classifier=classifier(objectives),
    )


def _replaced(variables: Any, weights: Mapping[str, jax.Array]) -> Any:
    """Returns the variables with `weights` inserted at their paths."""

    def replace(path, leaf):
        name = networks.leaf_name(path)
        return weights[name].astype(leaf.dtype) if name in weights else leaf

    return jax.tree_util.tree_map_with_path(replace, variables)


def _fold_in_name(key: jax.Array, name: str) -> jax.Array:
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
