"""The teacher's outputs for a training batch, computed by the network or read from a cache."""

from collections.abc import Callable, Sequence
from typing import Any

from rrd_jax import networks
from rrd_jax.objectives.batch import Batch
from rrd_jax.teacher import ensemble
from rrd_jax.teacher.row_format import RowFormat


def live(network: networks.Network) -> Callable[[Any, Batch], Any]:
    """Returns a function (variables, batch) -> Outputs that applies the teacher."""

    def outputs(variables, batch):
        images = batch.image if batch.teacher_image is None else batch.teacher_image
        return network.apply(variables, images, train=False)

    return outputs


def cached(
    network: networks.Network, views: int, formats: Sequence[RowFormat]
) -> Callable[[Any, Batch], Any]:
    """Returns a function (embeddings, batch) -> Outputs that looks up cached outputs.

    Args:
      network: a network of `networks.create`, or an Ensemble.
      views: number of views per image.
      formats: the layout of the rows of each member of the network.

    Returns:
      A function of embeddings and a batch that returns Outputs without maps. For each member of the
      network, the embeddings contain the classifier in `head`, and in `embedding`
      [N * views, width] the rows of its format, ordered by image, then by view; `embedding` is
      empty if batches contain their `rows`.
    """

    def outputs(embeddings, batch):
        rows = batch.rows
        if rows is None:
            position = batch.index * views + batch.view
            tables = embeddings["embedding"]
            rows = [table.at[position].get(mode="promise_in_bounds") for table in tables]
        members = [
            row_format.decode(row, head)
            for row, head, row_format in zip(rows, embeddings["head"], formats, strict=True)
        ]
        return ensemble.join_outputs(network, members)

    return outputs
