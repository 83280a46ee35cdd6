"""Trains with RRD in a custom loop: one objective and Optax, without the rest of rrd_jax."""

import jax
import jax.numpy as jnp
import optax

from rrd_jax import objectives
from rrd_jax.networks import Outputs

images = jax.random.normal(jax.random.key(0), (512, 64))
teacher_embeddings = jnp.tanh(images @ jax.random.normal(jax.random.key(1), (64, 128)))
rrd = objectives.create("rrd", queue_size=256, dim=64)
student_outputs = Outputs((), jnp.zeros((1, 32)))
state = rrd.init(jax.random.key(2), student_outputs, Outputs((), teacher_embeddings[:1]))
params = {"student": jax.random.normal(jax.random.key(3), (64, 32)) / 8, "rrd": state.params}
optimizer = optax.adam(1e-2)
opt_state = optimizer.init(params)


@jax.jit
def step(params, state, opt_state, images, teacher):
    def loss(params):
        # Any network can take the place of this layer.
        student = Outputs((), jnp.tanh(images @ params["student"]))
        carried = state._replace(params=params["rrd"])
        losses, memory = rrd.loss(carried, student, Outputs((), teacher), batch=None)
        return losses.mean(), memory

    (value, memory), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    updates, opt_state = optimizer.update(gradients, opt_state)
    return optax.apply_updates(params, updates), state._replace(memory=memory), opt_state, value


for epoch in range(10):
    for rows in (slice(first, first + 64) for first in range(0, 512, 64)):
        out = step(params, state, opt_state, images[rows], teacher_embeddings[rows])
        params, state, opt_state, value = out
    print(f"epoch {epoch + 1}: loss {value:.3f}")
