"""Projections and heads of the embeddings of student and teacher."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rrd_jax import errors, functional
from rrd_jax.objectives.base import Objective, ObjectiveState
from rrd_jax.objectives.parts.arithmetic import unit_rows

# {"kernel": [F, D], "bias": [D]}
Layer = dict[str, jax.Array]
# {"hidden": layer from F to the hidden width, "out": layer from the hidden width to D}
Mlp = dict[str, Layer]
# {"free": [F, D]}, from which `layers` computes a layer with an orthogonal kernel and no bias
Orthogonal = dict[str, jax.Array]
Head = Layer | Mlp | Orthogonal
HEADS = ("linear", "mlp", "orthogonal")


def init(key: jax.Array, features: int, dim: int) -> Layer:
    """Initializes a layer from F features to dimension D, uniform in +-1/sqrt(F), as in PyTorch."""
    kernel_key, bias_key = jax.random.split(key)
    bound = 1 / math.sqrt(features)
    return {
        "kernel": jax.random.uniform(kernel_key, (features, dim), minval=-bound, maxval=bound),
        "bias": jax.random.uniform(bias_key, (dim,), minval=-bound, maxval=bound),
    }


def init_head(key: jax.Array, features: int, dim: int, head: str, width: int | None) -> Head:
    """Initializes a head of HEADS from F features to dimension D.

    Args:
      key: a typed PRNG key.
      features: number of features F.
      dim: dimension D.
      head: "linear" for one layer; "mlp" for two layers with a ReLU in between; "orthogonal" for a
        matrix with orthonormal rows or columns (arXiv 2403.06213), see `layers`.
      width: hidden width of the MLP; None for F.
    """
    if head == "linear":
        return init(key, features, dim)
    if head == "orthogonal":
        return {"free": jax.random.normal(key, (features, dim))}
    hidden_key, out_key = jax.random.split(key)
    width = width or features
    return {"hidden": init(hidden_key, features, width), "out": init(out_key, width, dim)}


def check_head(head: str, width: Any) -> None:
    """Raises an InputError for an unknown head, or for a width that the head cannot have."""
    errors.lookup("head", head, dict.fromkeys(HEADS))
    if width is not None:
        errors.check_counts(head_width=width)
        if head != "mlp":
            raise errors.InputError(
                f"head_width is {width}, but head is '{head}', which has no hidden layer; set"
                " head='mlp', or remove head_width"
            )


def layers(head: Head) -> Layer | Mlp:
    """Returns the layers of a head; those of an "orthogonal" head are computed from its parameter.

    The rows of its kernel [F, D], or its columns if F > D, are those of the parameter after
    Gram-Schmidt, so that they follow the parameter without jumps.
    """
    if "free" not in head:
        return head
    free = head["free"]
    features, dim = free.shape
    basis, triangle = jnp.linalg.qr(free if features > dim else free.T)
    # LAPACK and accelerators choose the signs of R differently.
    basis = basis * jnp.where(jnp.diagonal(triangle) < 0, -1.0, 1.0)[None]
    return {"kernel": basis if features > dim else basis.T, "bias": jnp.zeros(dim)}


def apply_head(head: Head, features: jax.Array) -> jax.Array:
    """Applies a head to features [B, F]; returns [B, D], float32."""
    head = layers(head)
    if "out" not in head:
        return functional.linear(features, **head)
    hidden = functional.relu(functional.linear(features, **head["hidden"]))
    return functional.linear(hidden, **head["out"])


def project(layer: Head, features: jax.Array) -> jax.Array:
    """Applies a layer or head to features [B, F]; returns embeddings [B, D] of length 1."""
    return unit_rows(apply_head(layer, features))


class Heads(NamedTuple):
    """Heads of student and teacher, with normalized outputs.

    Attributes:
      dim: dimension D of the outputs; None for the teacher's embedding dimension, without a
        projection of the teacher.
      student: type of the student's head, a name of HEADS.
      width: hidden width of the student's MLP; None for the student's embedding dimension.
    """

    dim: int | None = None
    student: str = "linear"
    width: int | None = None

    def output_dim(self, teacher: Any) -> int:
        """Returns the output dimension D for a teacher's Outputs."""
        return self.dim or teacher.embedding.shape[-1]

    def init(self, key: jax.Array, student: Any, teacher: Any) -> tuple[Any, Any, jax.Array]:
        """Returns the student's head, the teacher's layer or (), and an unused key.

        Args:
          key: a typed PRNG key.
          student: the student's Outputs, as shapes.
          teacher: the teacher's Outputs, as shapes.
        """
        student_key, teacher_key, other_key = jax.random.split(key, 3)
        dim, features = self.output_dim(teacher), student.embedding.shape[-1]
        head = init_head(student_key, features, dim, self.student, self.width)
        width = teacher.embedding.shape[-1]
        return head, init(teacher_key, width, dim) if self.dim else (), other_key


def target(layer: Layer | tuple[()], teacher: Any) -> jax.Array:
    """Returns the teacher's normalized embeddings [B, D], after an optional layer.

    Args:
      layer: the layer, or () for none.
      teacher: the teacher's Outputs, constant for gradients.
    """
    embedding = teacher.embedding
    result = project(layer, embedding) if layer else unit_rows(embedding.astype(jnp.float32))
    return jax.lax.stop_gradient(result)


def with_fixed_head(objective: Objective) -> Objective:
    """Returns the objective with the student's head moved from the trained to the frozen state."""

    def init(key, student, teacher):
        state = objective.init(key, student, teacher)
        return state._replace(params=(), frozen=(state.params, state.frozen))

    def unfixed(state):
        params, frozen = state.frozen
        return state._replace(params=params, frozen=frozen)

    def loss(state, student, teacher, batch):
        return objective.loss(unfixed(state), student, teacher, batch)

    def floor(state, teacher):
        return objective.floor(unfixed(state), teacher)

    def head(state):
        return objective.head(unfixed(state))

    def patch_head(state):
        return objective.patch_head(unfixed(state))

    return objective._replace(
        init=init,
        loss=loss,
        floor=objective.floor and floor,
        head=objective.head and head,
        patch_head=objective.patch_head and patch_head,
    )


def init_adapter(key: jax.Array, student: Any, teacher: Any) -> ObjectiveState:
    """Initializes a trained layer from student to teacher dimension; none if they are equal."""
    features, dim = (outputs.embedding.shape[-1] for outputs in (student, teacher))
    return ObjectiveState(params=init(key, features, dim) if features != dim else ())


def adapt(params: Layer | tuple[()], features: jax.Array) -> jax.Array:
    """Maps features [B, F] to the teacher's dimension [B, D], float32; identity if params is ()."""
    return functional.linear(features, **params) if params else features.astype(jnp.float32)


def init_both(key: jax.Array, student: Any, teacher: Any, dim: int) -> dict[str, Layer]:
    """Initializes projections of both networks' embeddings to dimension D.

    Args:
      key: a typed PRNG key.
      student: the student's Outputs, as shapes.
      teacher: the teacher's Outputs, as shapes.
      dim: dimension D.
    """
    outputs = {"student": student, "teacher": teacher}
    return {
        name: init(layer_key, outputs[name].embedding.shape[-1], dim)
        for name, layer_key in zip(outputs, jax.random.split(key), strict=True)
    }


def project_both(
    layers: dict[str, Layer], student: Any, teacher: Any
) -> tuple[jax.Array, jax.Array]:
    """Projects both networks' embeddings with the layers of `init_both`, to [B, D] of length 1.

    The teacher's embedding is constant for gradients; the teacher's layer is trained.
    """
    target = jax.lax.stop_gradient(teacher.embedding)
    return project(layers["student"], student.embedding), project(layers["teacher"], target)
