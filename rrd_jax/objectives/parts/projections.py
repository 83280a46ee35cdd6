"""Trained linear layers behind the embeddings of student and teacher."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import functional
from rrd_jax.objectives.base import ObjectiveState
from rrd_jax.objectives.parts.arithmetic import unit

Layer = dict[str, jax.Array]  # {"kernel": [F, D], "bias": [D]}


def init(key: jax.Array, features: int, dim: int) -> Layer:
    """A layer from F features to length D, uniform in +-1/sqrt(F), as PyTorch's Linear starts."""
    kernel_key, bias_key = jax.random.split(key)
    bound = 1 / math.sqrt(features)
    return {
        "kernel": jax.random.uniform(kernel_key, (features, dim), minval=-bound, maxval=bound),
        "bias": jax.random.uniform(bias_key, (dim,), minval=-bound, maxval=bound),
    }


def project(layer: Layer, features: jax.Array) -> jax.Array:
    """unit(features @ kernel + bias): features [B, F] to embeddings [B, D] of length 1."""
    return unit(functional.linear(features, **layer))


def init_adapter(key: jax.Array, student: Any, teacher: Any) -> ObjectiveState:
    """A trained layer from the student's length to the teacher's; none where they are equal."""
    features, dim = (outputs.embedding.shape[-1] for outputs in (student, teacher))
    return ObjectiveState(params=init(key, features, dim) if features != dim else ())


def adapt(params: Layer | tuple[()], features: jax.Array) -> jax.Array:
    """Features [B, F] in the teacher's length [B, D], float32; unchanged where params is ()."""
    return functional.linear(features, **params) if params else features.astype(jnp.float32)


def init_both(key: jax.Array, student: Any, teacher: Any, dim: int) -> dict[str, Layer]:
    """A projection of each network's embedding to length D.

    Args:
      key: a typed PRNG key.
      student: its Outputs, as shapes.
      teacher: its Outputs, as shapes.
      dim: D.
    """
    outputs = {"student": student, "teacher": teacher}
    return {
        name: init(layer_key, outputs[name].embedding.shape[-1], dim)
        for name, layer_key in zip(outputs, jax.random.split(key), strict=True)
    }


def project_both(
    layers: dict[str, Layer], student: Any, teacher: Any
) -> tuple[jax.Array, jax.Array]:
    """Embeddings [B, D] of length 1 of both networks' Outputs, through `init_both`'s layers.

    The teacher's embedding is constant for gradients; its layer is not.
    """
    target = jax.lax.stop_gradient(teacher.embedding)
    return project(layers["student"], student.embedding), project(layers["teacher"], target)
