"""Batches as the losses see them, without images."""

import jax.numpy as jnp
import numpy as np

from rrd_jax.objectives.batch import Batch

NO_BATCH = Batch(image=None, label=None, index=None)  # for losses that read none of it


def of(label, index=None, **mixing):
    """A batch of these labels; the examples are the first ones unless `index` names them."""
    label = jnp.asarray(label, jnp.int32)
    index = np.arange(len(label)) if index is None else index
    return Batch(image=None, label=label, index=jnp.asarray(index, jnp.int32), **mixing)
