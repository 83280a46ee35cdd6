"""The teacher's outputs for a training batch, computed by the network or read from a cache."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import networks
from rrd_jax.networks import Outputs
from rrd_jax.objectives.batch import Batch
from rrd_jax.teacher import ensemble


def live(network: networks.Network) -> Callable[[Any, Batch], Any]:
    """Returns a function (variables, batch) -> Outputs that applies the teacher."""

    def outputs(variables, batch):
        images = batch.image if batch.teacher_image is None else batch.teacher_image
        return network.apply(variables, images, train=False)

    return outputs


def cached(
    network: networks.Network, views: int, image_shape: tuple[int, int, int]
) -> Callable[[Any, Batch], Any]:
    """Returns a function (embeddings, batch) -> Outputs that looks up cached embeddings.

    Args:
      network: a network of `networks.create`, or an Ensemble.
      views: number of views per image.
      image_shape: (H, W, channels).

    Returns:
      A function of embeddings and a batch that returns Outputs without maps. For each member of the
      network, the embeddings contain the classifier in `head`, and in `embedding`
      [N * views, width] the rows of `cached_row`, ordered by image, then by view; `embedding` is
      empty if batches contain their `rows`.
    """
    shapes = [
        networks.summarize(member, image_shape).outputs
        for member in ensemble.member_networks(network)
    ]

    def outputs(embeddings, batch):
        rows = batch.rows
        if rows is None:
            position = batch.index * views + batch.view
            tables = embeddings["embedding"]
            rows = [table.at[position].get(mode="promise_in_bounds") for table in tables]
        members = [
            from_row(row, head, shape)
            for row, head, shape in zip(rows, embeddings["head"], shapes, strict=True)
        ]
        return ensemble.join_outputs(network, members)

    return outputs


def cached_row(outputs: Outputs) -> jax.Array:
    """Returns the cached rows of a batch: embeddings [B, D], from which logits are computed.

    If the network returns no head, rows are the embeddings and the logits, if present, [B, D + C].
    """
    if outputs.head:
        return outputs.embedding
    parts = [part for part in (outputs.embedding, outputs.logits) if not isinstance(part, tuple)]
    return jnp.concatenate(parts, axis=-1)


def from_row(row: jax.Array, head: Any, like: Outputs) -> Outputs:
    """Returns the Outputs of a `cached_row`, without maps; `like` has their shapes."""
    if like.head:
        return networks.from_embedding(row, head)
    row = row.astype(jnp.float32)
    if isinstance(like.logits, tuple):
        return Outputs((), row)
    width = row.shape[-1] - like.logits.shape[-1]
    return Outputs(row[:, width:], row[:, :width] if width else ())
