"""Steps with students and teachers of up to 6.7 billion parameters, for ImageNet with batch 256."""

from typing import Any

_CONFIG = "configs/imagenet_r34_r18.py"
_SHARDED = {"shard_parameters": True}
_VIT_L = {"student.model": "vit_large_patch16_224"}
_VIT_G = {
    "teacher.model": "vit_giant_patch14_dinov2",
    "student.model": "resnet50",
    "data.image_size": 224,
}
_VIT_7B = _VIT_G | {"teacher.model": "vit_7b_patch16_dinov3"}
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
