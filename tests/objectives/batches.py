"""Batches without images for tests of losses."""

import jax.numpy as jnp
import numpy as np

from rrd_jax.objectives.batch import Batch

# A batch for losses that do not read the batch.
NO_BATCH = Batch(image=None, label=None, index=None)


def from_labels(label, index=None, **mixing):
    """Returns a batch with these labels; `index` defaults to the first examples."""
    label = jnp.asarray(label, jnp.int32)
    index = np.arange(len(label)) if index is None else index
    return Batch(image=None, label=label, index=jnp.asarray(index, jnp.int32), **mixing)
