"""What a train step asks of the teacher: its Outputs for a batch, from the network or a cache."""

from collections.abc import Callable
from typing import Any

from rrd_jax import networks
from rrd_jax.batch import Batch
from rrd_jax.teacher import ensemble


def live(network: networks.Network) -> Callable[[Any, Batch], Any]:
    """The teacher itself: (variables, batch) -> Outputs."""
    return lambda variables, batch: network.apply(variables, batch.image, train=False)


def cached(network: networks.Network, views: int) -> Callable[[Any, Batch], Any]:
    """The teacher's embeddings of all views of all images, and what follows from them.

    Args:
      network: of `networks.create`, or an Ensemble.
      views: of an image.

    Returns:
      (embeddings, batch) -> Outputs without maps. Of each member of the network, `embeddings` holds
      in `embedding` [N * views, D], view by view of image by image, and in `head` the classifier.
    """

    def outputs(embeddings, batch):
        row = batch.index * views + batch.view
        members = [
            networks.from_embedding(table.at[row].get(mode="promise_in_bounds"), head)
            for table, head in zip(embeddings["embedding"], embeddings["head"], strict=True)
        ]
        return ensemble.join_outputs(network, members)

    return outputs
