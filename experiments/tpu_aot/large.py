"""Steps with students and teachers of up to 6.7 billion parameters, for ImageNet with batch 256."""

from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax.networks import vit

_CONFIG = "configs/imagenet_r34_r18.py"
_SHARDED = {"shard_parameters": True}
_VIT_L = {"student.model": "vit_large_patch16_224"}
_VIT_G = {
    "teacher.model": "vit_giant_patch14_dinov2",
    "student.model": "resnet50",
    "data.image_size": 224,
}
_VIT_7B = _VIT_G | {"teacher.model": "experiments.tpu_aot.large:vit_7b"}
# Name: (config file, fields).
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "student-vit-l-replicated": (_CONFIG, _VIT_L),
    "student-vit-l-sharded": (_CONFIG, _VIT_L | _SHARDED),
    "student-vit-l-model-4": (_CONFIG, _VIT_L | {"mesh": "model:4"}),
    "teacher-vit-g-replicated": (_CONFIG, _VIT_G),
    "teacher-vit-g-sharded": (_CONFIG, _VIT_G | _SHARDED),
    "teacher-vit-g-model-4": (_CONFIG, _VIT_G | {"mesh": "model:4"}),
    "teacher-vit-7b-sharded": (_CONFIG, _VIT_7B | _SHARDED),
    "teacher-vit-7b-model-4": (_CONFIG, _VIT_7B | {"mesh": "model:4"}),
}


def vit_7b(num_classes: int, dtype: jnp.dtype) -> vit.VisionTransformer:
    """Returns a network with the shape of DINOv3's ViT-7B/16, to be compiled without weights.

    The rotary positions, which have no weights and few operations, are replaced by a table.
    """
    return vit.VisionTransformer(
        num_classes,
        patch=16,
        width=4096,
        depth=40,
        heads=32,
        activation=jax.nn.silu,
        gated=True,
        registers=4,
        patch_positions_only=True,
        scale=1e-5,
        dtype=dtype,
    )
