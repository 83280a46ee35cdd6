"""Networks that are compiled without weights, to see whether a teacher of their size fits."""

import jax
import jax.numpy as jnp

from rrd_jax.networks import vit


def vit_7b(num_classes: int, dtype: jnp.dtype) -> vit.VisionTransformer:
    """Returns a network of the shape of DINOv3's ViT-7B/16, with absolute position embeddings.

    6.7 billion parameters; rotary positions, which it lacks, have no weights and few operations.
    """
    return vit.VisionTransformer(
        num_classes,
        patch=16,
        width=4096,
        depth=40,
        heads=32,
        mlp=4.0,
        activation=jax.nn.silu,
        gated=True,
        registers=4,
        patch_positions_only=True,
        scale=1e-5,
        dtype=dtype,
    )
