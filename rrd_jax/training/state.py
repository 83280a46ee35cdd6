"""All that changes during training, in one tree."""

import zlib
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from rrd_jax import networks
from rrd_jax.objectives import Objective, ObjectiveState, check_teacher, classifier


@flax.struct.dataclass
class TrainState:
    """What a checkpoint holds and a train step maps to its successor.

    Attributes:
      step: [] int32, updates made so far.
      params: {"student": ..., "objectives": {name: ...}}, all that is trained.
      batch_stats: the student's running statistics, and whatever else it carries.
      ema: {"params", "batch_stats"}, the average of the student over the steps; () for none.
      opt_state: Optax state for `params`.
      frozen: {name: ...}, the objectives' constants.
      memory: {name: ...}, the objectives' memories.
      key: a typed PRNG key that never changes; steps fold epoch and example into it.
      classifier: the objective that classifies in the student's place, "" for none.
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
    def student(self) -> dict[str, Any]:
        """The network that is tested and exported: the average where there is one.

        {"params", "batch_stats"}, and under "classifier" the state of what classifies in its place.
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
        """What an objective carries."""
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
    """The state before the first step.

    Args:
      key: a typed PRNG key; the whole run follows from it.
      student: a network of `networks.create`.
      objectives: by name; each gets its own key, so adding one moves no other.
      optimizer: for the student's and the objectives' parameters together.
      image_shape: (H, W, channels).
      teacher: a network of `networks.create`, or None.
      teacher_variables: its weights; None where no objective keeps part of them.
      average: whether to keep an average of the student.
      weights: of the student, by path such as params/conv1/kernel, in place of random ones.

    Raises:
      InputError: an objective needs a teacher and there is none.
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
        name: objective.init(_named(objective_key, name), student_outputs, teacher_outputs)
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
    """The variables with these in place of those at the same paths."""

    def replace(path, leaf):
        name = networks.leaf_name(path)
        return weights[name].astype(leaf.dtype) if name in weights else leaf

    return jax.tree_util.tree_map_with_path(replace, variables)


def _named(key: jax.Array, name: str) -> jax.Array:
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
