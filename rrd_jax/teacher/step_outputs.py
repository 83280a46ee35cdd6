"""The teacher's Outputs for a training batch, from the network or from a cache."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import networks
from rrd_jax.networks import Outputs
from rrd_jax.objectives.batch import Batch
from rrd_jax.teacher import ensemble


def live(network: networks.Network) -> Callable[[Any, Batch], Any]:
    """Returns (variables, batch) -> Outputs, computed by the teacher."""

    def outputs(variables, batch):
        images = batch.image if batch.teacher_image is None else batch.teacher_image
        return network.apply(variables, images, train=False)

    return outputs


def cached(
    network: networks.Network, views: int, image_shape: tuple[int, int, int]
) -> Callable[[Any, Batch], Any]:
    """Returns (embeddings, batch) -> Outputs, read from the embeddings of all views of all images.

    Args:
      network: of `networks.create`, or an Ensemble.
      views: of an image.
      image_shape: (H, W, channels).

    Returns:
      A function of the embeddings and a batch that returns Outputs without maps. The embeddings
      hold, for each member of the network, the classifier in `head`, and in `embedding`
      [N * views, width] the rows of `cached_row`, view by view of image by image; `embedding` is
      empty if batches contain their `rows`.
    """
    shapes = [
        networks.summarize(member, image_shape).outputs
        for member in ensemble.member_networks(network)
    ]

    def outputs(embeddings, batch):
        rows = batch.rows
        if rows is None:
            place = batch.index * views + batch.view
            tables = embeddings["embedding"]
            rows = [table.at[place].get(mode="promise_in_bounds") for table in tables]
        members = [
            from_row(row, head, shape)
            for row, head, shape in zip(rows, embeddings["head"], shapes, strict=True)
        ]
        return ensemble.join_outputs(network, members)

    return outputs


def cached_row(outputs: Outputs) -> jax.Array:
    """Returns the rows of a cache: the embeddings [B, D], from which logits are computed.

    For a network that returns no head: the embeddings and the logits, if present, [B, D + C].
    """
    if outputs.head:
        return outputs.embedding
    parts = [part for part in (outputs.embedding, outputs.logits) if not isinstance(part, tuple)]
    return jnp.concatenate(parts, axis=-1)


def from_row(row: jax.Array, head: Any, like: Outputs) -> Outputs:
    """Returns the Outputs, without maps, that `cached_row` stored; `like` has their shapes."""
    if like.head:
        return networks.from_embedding(row, head)
    row = row.astype(jnp.float32)
    if isinstance(like.logits, tuple):
        return Outputs((), row)
    width = row.shape[-1] - like.logits.shape[-1]
    return Outputs(row[:, width:], row[:, :width] if width else ())
