"""What rrd_jax computes, in float32; means over the images.

Temperatures are arguments of the programs, so that each is compiled once for all of them.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.theory.embeddings import Embeddings
from rrd_jax.objectives import crd, kd, rrd


@jax.jit
def loss(given: Embeddings, tau_s: float, tau_t: float) -> jax.Array:
    """`rrd.relational_loss`."""
    losses = rrd.relational_loss(*given, temperature_student=tau_s, temperature_teacher=tau_t)
    return jnp.mean(losses)


@jax.jit
def gradient(given: Embeddings, tau_s: float, tau_t: float) -> jax.Array:
    """The length of its gradient for the student's embedding."""

    def total(student):
        losses = rrd.relational_loss(
            student,
            given.teacher,
            given.memory,
            temperature_student=tau_s,
            temperature_teacher=tau_t,
        )
        return jnp.sum(losses)

    return jnp.mean(jnp.linalg.norm(jax.grad(total)(given.student), axis=-1))


def infonce(given: Embeddings, tau_s: float) -> float:
    """`crd.infonce_loss`, where the i-th row of the memory is the own key of the i-th image.

    The negatives of an image are all other rows.
    """

    @jax.jit
    def of_image(student, teacher, rows):
        return crd.infonce_loss(student[None], teacher[None], rows, temperature=tau_s)[0]

    others = (np.delete(given.memory, i, axis=0) for i in range(len(given.student)))
    losses = [of_image(*image) for image in zip(given.student, given.teacher, others, strict=True)]
    return float(np.mean(losses))


@jax.jit
def divergence(given: Embeddings, tau: float) -> jax.Array:
    """`kd.kd_loss` of similarities to the memory in place of logits, less its factor tau^2."""
    student, teacher = (
        jnp.matmul(x, given.memory.T, precision="highest") for x in (given.student, given.teacher)
    )
    return jnp.mean(kd.kd_loss(student, teacher, temperature=tau)) / tau**2
